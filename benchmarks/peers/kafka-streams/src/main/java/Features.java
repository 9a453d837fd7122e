import java.nio.ByteBuffer;
import java.nio.FloatBuffer;

/**
 * Five of the model's features, in plain form, each standardised by the stream's own running mean and variance; the other inputs
 * of the model are 0. Memory of a stream: last ts, price and mid as 64-bit numbers, then a mean and a variance for each.
 */
final class Features {
    private static final int USED = 5;
    private static final int[] PLACES = {0, 1, 5, 7, 9}; // return, mid_return, gap, size, spread
    private static final double RATE = 1.0 / 500;
    static final int BYTES = 8 * (3 + 2 * USED);

    private Features() {}

    /** Put the features of the tick into x and move the stream's memory on. */
    static void take(Tick tick, ByteBuffer memory, FloatBuffer x) {
        long before = memory.getLong(0);
        double mid = 0.5 * (tick.bid + tick.ask);
        double[] found = {
            tick.price - memory.getDouble(8), mid - memory.getDouble(16), Math.log1p(Math.max(0, tick.ts - before) / 1e3),
            Math.log(tick.size), tick.ask - tick.bid,
        };
        for (int j = 0; j < USED; j++) {
            int at = 24 + 16 * j;
            boolean known = before != 0 && Double.isFinite(found[j]);
            double away = known ? found[j] - memory.getDouble(at) : 0.0;
            double variance = memory.getDouble(at + 8);
            double z = variance > 0 ? away / Math.sqrt(variance) : 0.0;
            x.put(PLACES[j], (float) Math.max(-5.0, Math.min(5.0, z)));
            memory.putDouble(at, memory.getDouble(at) + RATE * away);
            memory.putDouble(at + 8, variance + RATE * (away * away - variance));
        }
        memory.putLong(0, tick.ts);
        memory.putDouble(8, tick.price);
        memory.putDouble(16, mid);
    }
}
