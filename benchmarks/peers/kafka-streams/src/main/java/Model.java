import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import ai.onnxruntime.TensorInfo;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.Map;
import java.util.Set;

/** The autoencoder over one tick, with tensors that are made once and written again: nothing is allocated for a tick. */
final class Model implements AutoCloseable {
    final int recurrentBytes;
    final FloatBuffer x;
    private final int features;
    private final FloatBuffer guess;
    private final ByteBuffer state;
    private final ByteBuffer after;
    private final OrtSession session;
    private final Map<String, OnnxTensor> inputs;
    private final Map<String, OnnxTensor> outputs;

    Model(byte[] file) {
        try {
            OrtEnvironment environment = OrtEnvironment.getEnvironment();
            OrtSession.SessionOptions options = new OrtSession.SessionOptions();
            options.setIntraOpNumThreads(1);
            options.setInterOpNumThreads(1);
            session = environment.createSession(file, options);
            int recurrent = (int) shape("state")[1];
            features = (int) shape("features")[2];
            recurrentBytes = 4 * recurrent;
            x = direct(4 * features).asFloatBuffer();
            guess = direct(4 * features).asFloatBuffer();
            state = direct(recurrentBytes);
            after = direct(recurrentBytes);
            long[] tick = {1, 1, features};
            long[] row = {1, recurrent};
            inputs = Map.of(
                "features", OnnxTensor.createTensor(environment, x, tick),
                "state", OnnxTensor.createTensor(environment, state.asFloatBuffer(), row));
            outputs = Map.of(
                "reconstruction", OnnxTensor.createTensor(environment, guess, tick),
                "new_state", OnnxTensor.createTensor(environment, after.asFloatBuffer(), row));
        } catch (OrtException error) {
            throw new IllegalStateException(error);
        }
    }

    private long[] shape(String input) throws OrtException {
        return ((TensorInfo) session.getInputInfo().get(input).getInfo()).getShape();
    }

    private static ByteBuffer direct(int bytes) {
        return ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder());
    }

    /** The mean squared error of the reconstruction of x; the state that stands at a place of row moves on. */
    double step(byte[] row, int place) {
        state.put(0, row, place, recurrentBytes);
        try (OrtSession.Result done = session.run(inputs, Set.of(), outputs)) {
            after.get(0, row, place, recurrentBytes);
        } catch (OrtException error) {
            throw new IllegalStateException(error);
        }
        double sum = 0.0;
        for (int j = 0; j < features; j++) {
            double away = x.get(j) - guess.get(j);
            sum += away * away;
        }
        return sum / features;
    }

    @Override
    public void close() {
        inputs.values().forEach(OnnxTensor::close);
        outputs.values().forEach(OnnxTensor::close);
        try {
            session.close();
        } catch (OrtException error) {
            throw new IllegalStateException(error);
        }
    }
}
