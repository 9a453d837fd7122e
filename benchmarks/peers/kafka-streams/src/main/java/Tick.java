import com.fasterxml.jackson.annotation.JsonIgnoreProperties;

/** One tick as it stands in JSON; NaN is what a feed does not say. */
@JsonIgnoreProperties(ignoreUnknown = true)
public final class Tick {
    public String stream;
    public long ts;
    public double price;
    public double size = Double.NaN;
    public double bid = Double.NaN;
    public double ask = Double.NaN;
}
