//! Programs that are measured: started on one core, and what `/proc` tells of them.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::Instant,
};

/// How long a program may take until it listens.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// A program that runs until this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts a program on one core, its output in a file of `folder`.
    pub(super) fn start<S: AsRef<OsStr>>(
        folder: &Path,
        core: usize,
        program: &Path,
        arguments: &[S],
        environment: &[(&str, &Path)],
    ) -> anyhow::Result<Self> {
        let name = program.file_name().unwrap_or(program.as_os_str());
        let log = folder.join(name).with_extension("log");
        let output =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new("taskset");
        command
            .arg("-c")
            .arg(core.to_string())
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {} by taskset", program.display()))?;
        // taskset becomes the program: the process is the same.
        let pid = child.id().context("the program ended at once")?;
        Ok(Self { child, pid, log })
    }

    /// Waits until the program takes connections.
    pub(super) async fn listens(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let deadline = Instant::now() + STARTS_WITHIN;
        loop {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("it ended with {status}: {}", tail(&log));
            }
            if TcpStream::connect(address).await.is_ok() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "it does not listen on {address}; see {}",
                self.log.display()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Processor time in nanoseconds.
    pub(super) fn cpu(&self) -> anyhow::Result<u64> {
        cpu(&self.pid.to_string())
    }

    /// Resident memory in bytes.
    pub(super) fn resident(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.pid);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        let kilobytes: u64 = kilobytes
            .and_then(|text| text.parse().ok())
            .with_context(|| format!("{path} tells no VmRSS"))?;
        Ok(kilobytes * 1024)
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

/// User and system time in nanoseconds of all threads of a process, from the scheduler's own sum:
/// `utime` and `stime` are the same sum in hundredths of a second.
pub(super) fn cpu(pid: &str) -> anyhow::Result<u64> {
    let folder = format!("/proc/{pid}/task");
    let mut sum = 0;
    for thread in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        // A thread may end in between.
        let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        let nanoseconds = text.split_whitespace().next();
        sum += nanoseconds
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or_default();
    }
    ensure!(sum > 0, "the kernel keeps no schedstat");
    Ok(sum)
}

/// What all cores did, in ticks since the machine started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// At work, for whomever.
    pub(super) busy: u64,
    /// Taken by the host.
    pub(super) steal: u64,
    pub(super) all: u64,
}

impl Machine {
    pub(super) fn read() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::of(&text).context("/proc/stat does not begin with the sum of all cores")
    }

    fn of(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal; guests are in user already.
        let [user, nice, system, idle, wait, irq, softirq, steal] = *ticks.first_chunk()?;
        let busy = user + nice + system + irq + softirq;
        Some(Self {
            busy,
            steal,
            all: busy + idle + wait + steal,
        })
    }
}

/// Keeps all threads of this process on one core.
pub(super) async fn pin_this(core: usize) -> anyhow::Result<()> {
    let status = Command::new("taskset")
        .args(["-a", "-c", "-p", &core.to_string()])
        .arg(std::process::id().to_string())
        .stdout(Stdio::null())
        .status()
        .await
        .context("cannot run taskset (util-linux)")?;
    ensure!(status.success(), "taskset failed: {status}");
    Ok(())
}

/// Where a program is: beside this one, or where `PATH` or the folders of daemons have it.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe().ok();
    let beside = beside.as_deref().and_then(Path::parent).map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = beside
        .into_iter()
        .chain(std::env::split_paths(&path).collect::<Vec<_>>())
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_added_up() {
        let text = "cpu  1 2 3 40 5 6 7 8 1 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        let expected = Machine {
            busy: 19,
            steal: 8,
            all: 72,
        };
        assert_eq!(Machine::of(text), Some(expected));
        assert_eq!(Machine::of("intr 1"), None);
    }

    #[tokio::test]
    async fn a_program_is_measured_and_what_it_said_is_told() {
        let folder = std::env::temp_dir();
        let shell = find("sh").unwrap();
        let arguments = ["-c", "echo nonsense >&2; exit 3"];
        let mut process = Process::start(&folder, 0, &shell, &arguments, &[]).unwrap();
        let error = process
            .listens("127.0.0.1:1".parse().unwrap())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
        assert!(cpu("self").unwrap() > 0);
    }
}
