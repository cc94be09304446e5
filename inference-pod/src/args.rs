//! The command line: raw flags ([`Args`]) and what they mean ([`Config`]).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Parser, ValueEnum};

use crate::artifact::{Digest, Source};

/// The flags as the user wrote them.
#[derive(Debug, Parser)]
#[command(
    name = "sluice-inference-pod",
    version,
    about = "Serves one model over the Open Inference Protocol"
)]
pub(crate) struct Args {
    /// Name under which the model answers.
    #[arg(long, env = "SLUICE_MODEL_NAME")]
    model_name: String,
    /// Version under which the model answers.
    #[arg(long, env = "SLUICE_MODEL_VERSION", default_value = "1")]
    model_version: String,
    /// What runs the model.
    #[arg(long, env = "SLUICE_ENGINE", value_enum)]
    engine: EngineKind,
    /// Where the artifact is: http(s)://… or file://…; a folder ends with a slash.
    #[arg(long, env = "SLUICE_MODEL_URI")]
    model_uri: Option<String>,
    /// Digest of the artifact, such as `sha256:9f86…`.
    #[arg(long, env = "SLUICE_MODEL_DIGEST")]
    model_digest: Option<String>,
    /// Value of the metrics' label `model_deployment`; the model's name where absent.
    #[arg(long, env = "SLUICE_MODEL_DEPLOYMENT")]
    model_deployment: Option<String>,
    /// Value of the metrics' label `revision`.
    #[arg(long, env = "SLUICE_REVISION", default_value = "")]
    revision: String,
    /// Address to listen on.
    #[arg(long, env = "SLUICE_ADDRESS", default_value = "0.0.0.0")]
    address: IpAddr,
    /// Port of the API and of /metrics; 0 takes a free one.
    #[arg(long, env = "SLUICE_PORT", default_value_t = 8080)]
    port: u16,
    /// Folder for the artifact; it needs to be writable.
    #[arg(long, env = "SLUICE_DATA_DIR", default_value = "/tmp/model")]
    data_dir: PathBuf,
    /// Largest artifact that is fetched, in bytes.
    #[arg(long, env = "SLUICE_MAX_ARTIFACT_BYTES", default_value_t = 8 << 30)]
    max_artifact_bytes: u64,
    /// Largest request body, in bytes.
    #[arg(long, env = "SLUICE_MAX_BODY_BYTES", default_value_t = 16 << 20)]
    max_body_bytes: u32,
    /// How long requests are still accepted after SIGTERM.
    #[arg(long, env = "SLUICE_DRAIN_DELAY", default_value = "2s", value_parser = parse_duration)]
    drain_delay: Duration,
    /// How long requests in flight may take to finish after that.
    #[arg(long, env = "SLUICE_DRAIN_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    drain_timeout: Duration,
    /// Inferences that run at once; the number of cores where absent.
    #[arg(long, env = "SLUICE_CONCURRENCY")]
    concurrency: Option<NonZeroUsize>,
    /// Requests that may wait for a free slot; beyond that they are refused with 503.
    #[arg(long, env = "SLUICE_QUEUE", default_value_t = 128)]
    queue: usize,
    /// Form of the log lines.
    #[arg(long, env = "SLUICE_LOG_FORMAT", value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Full path of the ONNX Runtime library.
    #[arg(
        long,
        env = "SLUICE_ONNXRUNTIME",
        default_value = "/usr/lib/onnxruntime/libonnxruntime.so.1.31.1"
    )]
    onnxruntime: PathBuf,
    /// Lets POST /sim change the sim engine while it runs.
    #[arg(long, env = "SLUICE_SIM_CONTROL")]
    sim_control: bool,
    /// A setting of the engine, as key=value; may be repeated.
    #[arg(long = "engine-arg")]
    engine_arg: Vec<String>,
    /// More settings of the engine, as key=value.
    #[arg(last = true)]
    settings: Vec<String>,
}

/// What runs the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineKind {
    /// ONNX Runtime.
    Onnx,
    /// A stand-in with settable latency, errors and drift.
    Sim,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the flags mean, checked.
#[derive(Debug)]
pub(crate) struct Config {
    /// Name under which the model answers.
    pub(crate) model_name: String,
    /// Version under which the model answers.
    pub(crate) model_version: String,
    /// Value of the metrics' label `model_deployment`.
    pub(crate) model_deployment: String,
    /// Value of the metrics' label `revision`.
    pub(crate) revision: String,
    /// Address and port to listen on.
    pub(crate) listen: (IpAddr, u16),
    /// The artifact, if the engine has one.
    pub(crate) source: Option<Source>,
    /// What runs the model.
    pub(crate) engine: EngineConfig,
    /// Sizes and counts that bound memory and work.
    pub(crate) limits: Limits,
    /// How long requests are still accepted after SIGTERM.
    pub(crate) drain_delay: Duration,
    /// How long requests in flight may take to finish after that.
    pub(crate) drain_timeout: Duration,
}

/// The engine and its settings.
#[derive(Clone, Debug)]
pub(crate) struct EngineConfig {
    /// What runs the model.
    pub(crate) kind: EngineKind,
    /// Settings by name.
    pub(crate) settings: BTreeMap<String, String>,
    /// Full path of the ONNX Runtime library.
    pub(crate) onnxruntime: PathBuf,
    /// Whether POST /sim exists.
    pub(crate) sim_control: bool,
}

/// Sizes and counts that bound memory and work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Largest request body.
    pub(crate) body_bytes: u32,
    /// Inferences that run at once.
    pub(crate) slots: usize,
    /// Requests that may wait for a slot.
    pub(crate) queue: usize,
}

impl TryFrom<Args> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Args) -> anyhow::Result<Self> {
        let source = source(&args)?;
        if source.is_none() && args.engine == EngineKind::Onnx {
            bail!("engine onnx needs --model-uri and --model-digest");
        }
        let slots = args
            .concurrency
            .or_else(|| thread::available_parallelism().ok());
        let settings = settings(args.engine_arg.iter().chain(&args.settings))?;
        Ok(Self {
            model_deployment: args
                .model_deployment
                .unwrap_or_else(|| args.model_name.clone()),
            model_name: args.model_name,
            model_version: args.model_version,
            revision: args.revision,
            listen: (args.address, args.port),
            source,
            engine: EngineConfig {
                kind: args.engine,
                settings,
                onnxruntime: args.onnxruntime,
                sim_control: args.sim_control,
            },
            limits: Limits {
                body_bytes: args.max_body_bytes,
                slots: slots.map_or(1, NonZeroUsize::get),
                queue: args.queue,
            },
            drain_delay: args.drain_delay,
            drain_timeout: args.drain_timeout,
        })
    }
}

fn source(args: &Args) -> anyhow::Result<Option<Source>> {
    let Some(uri) = &args.model_uri else {
        return Ok(None);
    };
    let digest = args.model_digest.as_deref().context(
        "--model-uri needs --model-digest: without one nothing says that the right model was fetched",
    )?;
    Ok(Some(Source {
        uri: uri.clone(),
        digest: digest
            .parse::<Digest>()
            .map_err(|error| anyhow!("--model-digest: {error}"))?,
        max_bytes: args.max_artifact_bytes,
        dir: args.data_dir.clone(),
    }))
}

fn settings(
    pairs: impl Iterator<Item = impl AsRef<str>>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut settings = BTreeMap::new();
    for pair in pairs {
        let pair = pair.as_ref();
        let (key, value) = pair
            .split_once('=')
            .with_context(|| format!("engine argument {pair:?} is not of the form key=value"))?;
        if settings.insert(key.to_owned(), value.to_owned()).is_some() {
            bail!("engine argument {key:?} is given twice");
        }
    }
    Ok(settings)
}

/// Reads a duration such as `250us`, `5ms`, `2s` or `1m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 250us, 5ms, 2s or 1m");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.strip_prefix(digits) {
        Some("us") => 1e-6,
        Some("ms") => 1e-3,
        Some("s") => 1.0,
        Some("m") => 60.0,
        Some("") if digits == "0" => 1.0,
        Some(_) | None => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> anyhow::Result<Config> {
        let base = ["pod", "--model-name", "m", "--engine", "sim"];
        Args::try_parse_from(base.iter().chain(flags))?.try_into()
    }

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(parse_duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for wrong in ["", "5", "ms", "-1s", "5 ms", "infs", "1h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn engine_arguments_come_from_both_places() {
        let config = config(&["--engine-arg", "alpha=5ms", "--", "beta=1ms"]).unwrap();
        assert_eq!(config.engine.settings["alpha"], "5ms");
        assert_eq!(config.engine.settings["beta"], "1ms");
    }

    #[test]
    fn engine_arguments_must_be_pairs_given_once() {
        config(&["--", "alpha"]).unwrap_err();
        config(&["--", "alpha=1ms", "alpha=2ms"]).unwrap_err();
    }

    #[test]
    fn an_artifact_without_a_digest_is_refused() {
        let error = config(&["--model-uri", "file:///m.onnx"]).unwrap_err();
        assert!(error.to_string().contains("--model-digest"), "{error}");
    }
}
