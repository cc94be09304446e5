//! The command line: raw flags ([`Args`]) and what they mean ([`Config`]).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum};
use crds::quantity::DurationText;

/// The shortest lease that leaves time for a renewal to fail and be tried again.
const SHORTEST_LEASE: Duration = Duration::from_secs(3);

/// The Sluice operator.
#[derive(Clone, Debug, Parser)]
#[command(name = "sluice-operator", version)]
pub struct Args {
    /// Namespace to watch; repeatable. None: all.
    #[arg(long)]
    pub watch_namespace: Vec<String>,
    /// Name of the Lease that the leader holds, in the operator's own namespace.
    #[arg(long, default_value = "sluice-operator")]
    pub lease_name: String,
    /// How long a lease lasts that is not renewed.
    #[arg(long, default_value = "15s")]
    pub lease_duration: String,
    /// Address of metrics and health.
    #[arg(long, default_value = "0.0.0.0:9090")]
    pub admin: SocketAddr,
    /// Folder of manifests that the leader applies: `GatewayClass`, Gateway, `MetricSource`.
    #[arg(long)]
    pub defaults_dir: Option<PathBuf>,
    /// Image of the inference pod, for engines onnx and sim.
    #[arg(long)]
    pub inference_image: Option<String>,
    /// Name of a pull secret for the pods of models; repeatable.
    #[arg(long)]
    pub image_pull_secret: Vec<String>,
    /// Gateway for models that name none, as NAMESPACE/NAME.
    #[arg(long)]
    pub default_gateway: Option<String>,
    /// Service of the router, as NAMESPACE/NAME.
    #[arg(long)]
    pub router_service: Option<String>,
    /// The most replicas that the router may have: each judges alone, and what the user allows of
    /// wrong rollbacks is shared among them.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub router_replicas: u32,
    /// File with the token by which routers know the operator, for the audience `sluice-router`.
    #[arg(long)]
    pub router_token: Option<PathBuf>,
    /// The cluster's DNS domain.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Folder with one folder of credentials for each name that a `MetricSource` may mount.
    #[arg(long)]
    pub metric_credentials_dir: Option<PathBuf>,
    /// Form of the log lines.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Name of this pod.
    #[arg(long, env = "POD_NAME", default_value = "sluice-operator")]
    pub pod_name: String,
    /// Namespace of this pod.
    #[arg(long, env = "POD_NAMESPACE")]
    pub pod_namespace: Option<String>,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// An object in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamespacedName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl NamespacedName {
    fn parse(flag: &str, text: &str) -> anyhow::Result<Self> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => bail!("{flag}: {text:?} is not of the form NAMESPACE/NAME"),
        }
    }
}

/// What the flags mean.
#[derive(Clone, Debug)]
pub struct Config {
    /// Namespaces to watch; none: all.
    pub watch_namespaces: Vec<String>,
    /// Name of the Lease.
    pub lease_name: String,
    /// How long a lease lasts that is not renewed.
    pub lease_duration: Duration,
    /// Address of metrics and health.
    pub admin: SocketAddr,
    /// Folder of manifests that the leader applies.
    pub defaults_dir: Option<PathBuf>,
    /// Image of the inference pod.
    pub inference_image: Option<String>,
    /// Pull secrets for the pods of models.
    pub image_pull_secrets: Vec<String>,
    /// Gateway for models that name none.
    pub default_gateway: Option<NamespacedName>,
    /// Service of the router.
    pub router_service: Option<NamespacedName>,
    /// The most replicas that the router may have.
    pub router_replicas: u32,
    /// File with the token by which routers know the operator.
    pub router_token: Option<PathBuf>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Folder of credentials for metrics servers.
    pub metric_credentials_dir: Option<PathBuf>,
    /// Form of the log lines.
    pub log_format: LogFormat,
    /// Name of this pod.
    pub pod_name: String,
    /// Namespace of this pod; none: the client's default.
    pub pod_namespace: Option<String>,
}

impl Args {
    /// Checks the flags.
    pub fn resolve(self) -> anyhow::Result<Config> {
        let lease_duration = DurationText(self.lease_duration)
            .parse()
            .ok()
            .and_then(|duration| Duration::try_from(duration).ok())
            .filter(|duration| *duration >= SHORTEST_LEASE)
            .context("--lease-duration must be a duration of at least 3s, such as 15s")?;
        let named = |flag, text: Option<String>| {
            text.map(|text| NamespacedName::parse(flag, &text))
                .transpose()
        };
        Ok(Config {
            watch_namespaces: self.watch_namespace,
            lease_name: self.lease_name,
            lease_duration,
            admin: self.admin,
            defaults_dir: self.defaults_dir,
            inference_image: self.inference_image.filter(|image| !image.is_empty()),
            image_pull_secrets: self.image_pull_secret,
            default_gateway: named("--default-gateway", self.default_gateway)?,
            router_service: named("--router-service", self.router_service)?,
            router_replicas: self.router_replicas,
            router_token: self.router_token,
            cluster_domain: self.cluster_domain,
            metric_credentials_dir: self.metric_credentials_dir,
            log_format: self.log_format,
            pod_name: self.pod_name,
            pod_namespace: self.pod_namespace,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: &[&str]) -> anyhow::Result<Config> {
        Args::try_parse_from(std::iter::once(&"operator").chain(flags))?.resolve()
    }

    #[test]
    fn names_are_split_at_the_slash() {
        let config = resolve(&["--default-gateway", "sluice-system/sluice"]).unwrap();
        let gateway = config.default_gateway.unwrap();
        assert_eq!(
            (gateway.namespace.as_str(), gateway.name.as_str()),
            ("sluice-system", "sluice")
        );
        for wrong in ["sluice", "/sluice", "a/", "a/b/c"] {
            let error = resolve(&["--router-service", wrong]).unwrap_err();
            assert!(error.to_string().contains("--router-service"), "{error}");
        }
    }

    #[test]
    fn at_least_one_router_judges() {
        assert_eq!(
            resolve(&["--router-replicas=8"]).unwrap().router_replicas,
            8
        );
        resolve(&["--router-replicas=0"]).unwrap_err();
    }

    #[test]
    fn a_lease_too_short_to_renew_is_refused() {
        assert_eq!(
            resolve(&[]).unwrap().lease_duration,
            Duration::from_secs(15)
        );
        for wrong in ["1s", "never", "-5s"] {
            let flag = format!("--lease-duration={wrong}");
            assert!(resolve(&[flag.as_str()]).is_err(), "{wrong}");
        }
    }
}
