//! Command line and environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use crds::contract;
use ipnet::IpNet;

use crate::table::duration;

/// The Sluice data plane.
#[derive(Clone, Debug, Parser)]
#[command(name = "sluice-router", version)]
pub struct Args {
    /// Gateway listener port and the address it is bound to, as `80=0.0.0.0:8080`; repeatable.
    #[arg(long, env = "SLUICE_LISTEN", value_delimiter = ',', default_value = "80=0.0.0.0:8080", value_parser = parse_listen)]
    pub listen: Vec<Listen>,
    /// Address of the admin listener: applied digests, metrics, health.
    #[arg(long, env = "SLUICE_ADMIN", default_value = "0.0.0.0:9090")]
    pub admin: SocketAddr,
    /// `controllerName` of the `GatewayClass`es to serve.
    #[arg(long, env = "SLUICE_CONTROLLER_NAME", default_value = contract::GATEWAY_CONTROLLER)]
    pub controller_name: String,
    /// Namespace to watch; repeatable. None: all.
    #[arg(long, env = "SLUICE_WATCH_NAMESPACE", value_delimiter = ',')]
    pub watch_namespace: Vec<String>,
    /// File with the HMAC key of the split. Without one a random key is drawn, and users move when
    /// the router restarts.
    #[arg(long, env = "SLUICE_SPLIT_KEY_FILE")]
    pub split_key_file: Option<PathBuf>,
    /// Network of proxies whose word on their own clients is taken (`X-Forwarded-For`), as
    /// `10.0.0.0/8`; repeatable. None: a client is whoever connects.
    #[arg(long, env = "SLUICE_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpNet>,
    /// Name of this pod: holder of the status Lease.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Namespace of this pod, of its Service and of the status Lease.
    #[arg(long, env = "POD_NAMESPACE")]
    pub pod_namespace: Option<String>,
    /// Folder for what is to outlive this process: trips, and what is served. It should live as long
    /// as the pod. None: a restart without an API server serves nothing.
    #[arg(long, env = "SLUICE_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Service whose address the Gateways report.
    #[arg(long, env = "SLUICE_SERVICE")]
    pub service: Option<String>,
    /// Who may read the stream and tell of trips.
    #[arg(long, env = "SLUICE_LEAD_AUTH", value_enum, default_value_t = LeadAuth::TokenReview)]
    pub lead_auth: LeadAuth,
    /// Namespace of the operator's service account. None: this pod's.
    #[arg(long, env = "SLUICE_OPERATOR_NAMESPACE")]
    pub operator_namespace: Option<String>,
    /// The operator's service account.
    #[arg(long, env = "SLUICE_OPERATOR_SERVICE_ACCOUNT", default_value = contract::OPERATOR_APP)]
    pub operator_service_account: String,
    /// How long to go on accepting after SIGTERM, while endpoints forget this pod.
    #[arg(long, env = "SLUICE_DRAIN_DELAY", default_value = "5s", value_parser = parse_duration)]
    pub drain_delay: Duration,
    /// How long requests in flight may take after that.
    #[arg(long, env = "SLUICE_DRAIN_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    pub drain_timeout: Duration,
    /// Bound until an answer's head where the rule sets none, and between two chunks of its body.
    #[arg(long, env = "SLUICE_REQUEST_TIMEOUT", default_value = "60s", value_parser = parse_duration)]
    pub request_timeout: Duration,
    /// Bound on connecting to an endpoint.
    #[arg(long, env = "SLUICE_CONNECT_TIMEOUT", default_value = "500ms", value_parser = parse_duration)]
    pub connect_timeout: Duration,
    /// Bound from a request head's first byte to its last.
    #[arg(long, env = "SLUICE_HEADER_READ_TIMEOUT", default_value = "10s", value_parser = parse_duration)]
    pub header_read_timeout: Duration,
    /// Bound between two requests on a client's connection, and on a client that takes nothing of its answer.
    #[arg(long, env = "SLUICE_IDLE_TIMEOUT", default_value = "2m", value_parser = parse_duration)]
    pub idle_timeout: Duration,
    /// Bound on a request head, in bytes.
    #[arg(long, env = "SLUICE_MAX_HEADER_BYTES", default_value_t = 32 * 1024, value_parser = clap::value_parser!(u32).range(8192..))]
    pub max_header_bytes: u32,
    /// Bound on client connections at one time, over all listeners.
    #[arg(long, env = "SLUICE_MAX_CONNECTIONS", default_value_t = 20_000)]
    pub max_connections: u32,
    /// How to write logs.
    #[arg(long, env = "SLUICE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// One `--listen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Port that Gateway listeners name.
    pub port: u16,
    /// Address that is bound for it.
    pub bind: SocketAddr,
}

/// Who may read the stream and tell of trips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LeadAuth {
    /// Whoever shows a token of the operator's service account for the audience `sluice-router`.
    TokenReview,
    /// Everybody who can reach the admin listener: for tests alone.
    None,
}

/// How to write logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

fn parse_listen(text: &str) -> Result<Listen, String> {
    let (port, bind) = text
        .split_once('=')
        .ok_or("must be PORT=ADDRESS:PORT, as 80=0.0.0.0:8080")?;
    Ok(Listen {
        port: port
            .trim()
            .parse()
            .map_err(|error| format!("port {port:?}: {error}"))?,
        bind: bind
            .trim()
            .parse()
            .map_err(|error| format!("address {bind:?}: {error}"))?,
    })
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_repeated_listeners_are_read() {
        let args = Args::parse_from([
            "sluice-router",
            "--listen",
            "80=127.0.0.1:8080",
            "--listen",
            "81=[::1]:8081",
        ]);
        assert_eq!(args.listen.len(), 2);
        assert_eq!(args.drain_delay, Duration::from_secs(5));
        Args::try_parse_from(["sluice-router", "--listen", "8080"]).unwrap_err();
        Args::try_parse_from(["sluice-router", "--drain-delay", "soon"]).unwrap_err();
    }
}
