import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The detector as one would write it with Kafka Streams: one tick a call of the model, each stream's state in a store with a
 * changelog. Its features are those of Features.java and its score is the mean error of the reconstruction: there is no
 * calibration, no reasons, no treatment of late and repeated ticks, no incidents and no dead letters.
 *
 * Arguments are name=value: bootstrap, group, ticks, scores (topic), model (file), guarantee, store (rocksdb or memory), folder,
 * every (true: each tick's score is written, else only those above the threshold), commit (milliseconds).
 */
public final class Peer {
    private static final double THRESHOLD = 25.0;

    static final class Scoring extends ContextualProcessor<String, byte[], String, byte[]> {
        private final ObjectMapper json = new ObjectMapper();
        private final ObjectReader reader = json.readerFor(Tick.class);
        private final byte[] modelFile;
        private final boolean every;
        private Model model;
        private KeyValueStore<String, byte[]> store;

        Scoring(byte[] modelFile, boolean every) {
            this.modelFile = modelFile;
            this.every = every;
        }

        @Override
        public void init(ProcessorContext<String, byte[]> context) {
            super.init(context);
            store = context.getStateStore("state");
            model = new Model(modelFile);
        }

        @Override
        public void process(Record<String, byte[]> record) {
            try {
                Tick tick = reader.readValue(record.value());
                byte[] before = store.get(record.key());
                byte[] state = before == null ? new byte[Features.BYTES + model.recurrentBytes] : before;
                Features.take(tick, ByteBuffer.wrap(state), model.x);
                double score = model.step(state, Features.BYTES);
                store.put(record.key(), state);
                if (every || score > THRESHOLD) {
                    String told = "{\"stream\":\"" + tick.stream + "\",\"ts\":" + tick.ts + ",\"score\":" + score + "}";
                    context().forward(record.withValue(told.getBytes()));
                }
            } catch (java.io.IOException error) {
                throw new IllegalArgumentException("not a tick", error);
            }
        }

        @Override
        public void close() {
            model.close();
        }
    }

    public static void main(String[] given) throws Exception {
        Properties named = new Properties();
        for (String argument : given) {
            String[] parts = argument.split("=", 2);
            named.setProperty(parts[0], parts[1]);
        }
        Properties config = new Properties();
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, named.getProperty("group"));
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, named.getProperty("bootstrap"));
        config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, named.getProperty("guarantee"));
        config.put(StreamsConfig.STATE_DIR_CONFIG, named.getProperty("folder"));
        config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, named.getProperty("commit"));
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64 * 1024 * 1024L);
        config.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        config.put(StreamsConfig.consumerPrefix("group.instance.id"), "one"); // so that a restart does not wait for a session to end

        var supplier = named.getProperty("store").equals("rocksdb")
            ? Stores.persistentKeyValueStore("state") : Stores.inMemoryKeyValueStore("state");
        var store = Stores.keyValueStoreBuilder(supplier, Serdes.String(), Serdes.ByteArray()).withCachingEnabled();
        byte[] model = Files.readAllBytes(Path.of(named.getProperty("model")));
        boolean every = Boolean.parseBoolean(named.getProperty("every"));
        Topology topology = new Topology()
            .addSource("ticks", Serdes.String().deserializer(), Serdes.ByteArray().deserializer(), named.getProperty("ticks"))
            .addProcessor("scoring", () -> new Scoring(model, every), "ticks")
            .addStateStore(store, "scoring")
            .addSink("scores", named.getProperty("scores"), Serdes.String().serializer(), Serdes.ByteArray().serializer(), "scoring");

        KafkaStreams streams = new KafkaStreams(topology, config);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }
}
