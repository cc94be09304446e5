//! What requests are sent to: the router, its peers, and the backend itself.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use tokio::process::Command;

use crate::bench::{
    self,
    router::{
        ports,
        process::{self, Process},
    },
};

/// Who stands between load and backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// Nobody: what the others add is counted from here.
    Direct,
    Router,
    Bare,
    Haproxy,
    Nginx,
    Envoy,
}

/// The proxies in the order in which they are asked.
pub(super) const PROXIES: [Who; 5] = [Who::Bare, Who::Haproxy, Who::Nginx, Who::Envoy, Who::Router];

/// A target.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) who: Who,
    /// With its version.
    pub(super) name: String,
    pub(super) address: SocketAddr,
    /// None where there is no proxy.
    pub(super) process: Option<Process>,
}

/// Where programs and configurations are.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Configurations of the peers.
    pub(super) configurations: PathBuf,
    /// For logs, keys and what programs want to write.
    pub(super) scratch: PathBuf,
    /// The router, where it is not beside this program.
    pub(super) router: Option<PathBuf>,
    /// Envoy, where it is not in `PATH`.
    pub(super) envoy: Option<PathBuf>,
    /// The core that proxies run on.
    pub(super) core: usize,
}

impl Target {
    /// The backend itself.
    pub(super) fn direct() -> Self {
        Self {
            who: Who::Direct,
            name: "direct".to_owned(),
            address: ports::loopback(ports::STABLE),
            process: None,
        }
    }

    /// Starts a proxy; none for one that this machine does not have.
    pub(super) async fn start(who: Who, places: &Places) -> anyhow::Result<Option<Self>> {
        let Some(program) = program(who, places)? else {
            return Ok(None);
        };
        let name = name(who, &program).await?;
        let address = ports::loopback(port(who));
        bench::say(&format!("starting {name}"));
        let arguments = arguments(who, places)?;
        let kubeconfig = places.scratch.join("kubeconfig");
        let environment: &[(&str, &Path)] = match who {
            Who::Router => &[("KUBECONFIG", &kubeconfig), ("RUST_LOG", Path::new("info"))],
            Who::Direct | Who::Bare | Who::Haproxy | Who::Nginx | Who::Envoy => &[],
        };
        let process = Process::start(
            &places.scratch,
            places.core,
            &program,
            &arguments,
            environment,
        );
        let mut process = process?;
        process
            .listens(address)
            .await
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Some(Self {
            who,
            name,
            address,
            process: Some(process),
        }))
    }
}

fn port(who: Who) -> u16 {
    match who {
        Who::Direct => ports::STABLE,
        Who::Router => ports::ROUTER,
        Who::Bare => ports::BARE,
        Who::Haproxy => ports::HAPROXY,
        Who::Nginx => ports::NGINX,
        Who::Envoy => ports::ENVOY,
    }
}

fn program(who: Who, places: &Places) -> anyhow::Result<Option<PathBuf>> {
    let found = match who {
        Who::Direct => return Ok(None),
        Who::Bare => Some(std::env::current_exe()?),
        Who::Router => places
            .router
            .clone()
            .or_else(|| process::find("sluice-router")),
        Who::Haproxy => process::find("haproxy"),
        Who::Nginx => process::find("nginx"),
        Who::Envoy => {
            let envoy = places.envoy.clone().or_else(|| process::find("envoy"));
            if envoy.is_none() {
                bench::say("not measured: Envoy, which is not installed; see hack/bench-router");
            }
            return Ok(envoy);
        }
    };
    if found.is_none() {
        bail!("{who:?} is not installed; hack/bench-router installs the peers");
    }
    Ok(found)
}

fn arguments(who: Who, places: &Places) -> anyhow::Result<Vec<OsString>> {
    let file = |name: &str| {
        let path = places.configurations.join(name);
        fs::canonicalize(&path).with_context(|| format!("cannot find {}", path.display()))
    };
    let loopback = |port| ports::loopback(port).to_string();
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |argument: &str| arguments.push(argument.into());
    match who {
        Who::Direct => {}
        Who::Router => {
            add(&format!("--listen=80={}", loopback(ports::ROUTER)));
            add(&format!("--admin={}", loopback(ports::ROUTER_ADMIN)));
            // There is no operator whose token could be shown.
            add("--lead-auth=none");
            let key = places.scratch.join("split-key");
            fs::write(&key, "not a secret: users of a benchmark")?;
            fs::write(places.scratch.join("kubeconfig"), kubeconfig())?;
            add("--split-key-file");
            arguments.push(key.into());
        }
        Who::Bare => {
            add("bare-proxy");
            add(&format!("--listen={}", loopback(ports::BARE)));
            add(&format!("--stable={}", loopback(ports::STABLE)));
            add(&format!("--canary={}", loopback(ports::CANARY)));
        }
        Who::Haproxy => {
            add("-db");
            add("-f");
            arguments.push(file("haproxy.cfg")?.into());
        }
        Who::Nginx => {
            add("-e");
            add("stderr");
            add("-p");
            arguments.push(places.scratch.clone().into());
            arguments.push("-c".into());
            arguments.push(file("nginx.conf")?.into());
        }
        Who::Envoy => {
            for argument in [
                "--concurrency",
                "1",
                "--log-level",
                "error",
                "--disable-hot-restart",
                "-c",
            ] {
                add(argument);
            }
            arguments.push(file("envoy.yaml")?.into());
        }
    }
    Ok(arguments)
}

fn kubeconfig() -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: bench\n\
         clusters: [{{name: bench, cluster: {{server: \"http://{}\"}}}}]\n\
         contexts: [{{name: bench, context: {{cluster: bench, user: bench, namespace: bench}}}}]\n\
         users: [{{name: bench, user: {{}}}}]\n",
        ports::loopback(ports::API)
    )
}

/// The name with the version, where the program tells one.
async fn name(who: Who, program: &Path) -> anyhow::Result<String> {
    let (name, flag) = match who {
        Who::Direct => return Ok("direct".to_owned()),
        Who::Router => return Ok("sluice-router".to_owned()),
        Who::Bare => return Ok("bare-hyper".to_owned()),
        Who::Haproxy => ("haproxy", "-v"),
        Who::Nginx => ("nginx", "-v"),
        Who::Envoy => ("envoy", "--version"),
    };
    let output = Command::new(program)
        .arg(flag)
        .output()
        .await
        .with_context(|| format!("cannot run {}", program.display()))?;
    let said = [output.stdout, output.stderr].concat();
    let version = version(&String::from_utf8_lossy(&said));
    Ok(version.map_or_else(|| name.to_owned(), |version| format!("{name}-{version}")))
}

/// The first word of three numbers.
fn version(text: &str) -> Option<String> {
    let words = text.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    words
        .map(|word| word.trim_matches('.'))
        .find(|word| word.split('.').count() == 3 && word.split('.').all(|part| !part.is_empty()))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (text, expected) in [
            (
                "HAProxy version 2.6.12-1+deb12u4 2026/01/02 - https://haproxy.org/",
                "2.6.12",
            ),
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            (
                "envoy  version: 4b4a5c0e/1.40.0/Clean/RELEASE/BoringSSL",
                "1.40.0",
            ),
        ] {
            assert_eq!(version(text).as_deref(), Some(expected));
        }
        assert_eq!(version("no version"), None);
    }
}
