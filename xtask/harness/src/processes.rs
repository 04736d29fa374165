//! The processes that we started; none outlives us.
//!
//! - `end_with_us` installs the signal handler before any verb runs.
//! - Ctrl-C, SIGTERM and SIGHUP kill every guarded process. The verb that waits for one sees its
//!   console end, finds `interrupted()` set, and cleans up as it returns.
//! - Dropping a `Guarded` kills and reaps its process, so an error on any path leaves none behind.

use std::{
    fmt,
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::console::tail;

/// The exit code of an interrupted program, by the convention of shells: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;

/// The time that the verb has to clean up after an interrupt, before we exit without it.
const GRACE: Duration = Duration::from_secs(3);

/// The time limit of an [`attempt`].
const PATIENCE: Duration = Duration::from_secs(30);

static ASKED_TO_STOP: AtomicBool = AtomicBool::new(false);
static ENDS_ITSELF: AtomicBool = AtomicBool::new(false);
static GUARDED: Mutex<Vec<Weak<Mutex<Process>>>> = Mutex::new(Vec::new());

/// The error of a verb that was interrupted by Ctrl-C or a signal.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Returns whether we were interrupted.
pub fn interrupted() -> bool {
    ASKED_TO_STOP.load(Ordering::SeqCst)
}

/// From now on, an interrupt leaves the verb time to report its results, even if no process runs.
pub fn end_ourselves() {
    ENDS_ITSELF.store(true, Ordering::SeqCst);
}

/// From now on, an interrupt kills our processes before it ends us.
pub fn end_with_us() -> Result<()> {
    ctrlc::set_handler(|| {
        let were_alive = interrupt();
        if were_alive || ENDS_ITSELF.load(Ordering::SeqCst) {
            std::thread::sleep(GRACE);
        }
        std::process::exit(INTERRUPTED.into());
    })
    .context("cannot catch Ctrl-C")
}

/// Kills every guarded process, and has [`interrupted`] return true. Returns whether there was a
/// process.
pub fn interrupt() -> bool {
    ASKED_TO_STOP.store(true, Ordering::SeqCst);
    let alive: Vec<_> = locked(&GUARDED).iter().filter_map(Weak::upgrade).collect();
    alive.iter().for_each(|process| locked(process).kill());
    !alive.is_empty()
}

/// A process, and whether it leads a group of those that it started.
struct Process {
    child: Child,
    leads_group: bool,
}

impl Process {
    /// Kills the process, or its whole group. Errors mean that it has ended already.
    fn kill(&mut self) {
        if self.leads_group {
            let group = format!("-{}", self.child.id());
            let mut kill = Command::new("kill");
            kill.args(["-KILL", "--", &group]).stdout(Stdio::null()).stderr(Stdio::null());
            let _ = kill.status();
        }
        let _ = self.child.kill();
    }
}

/// A process that is killed when this value is dropped or when we are interrupted.
pub struct Guarded(Arc<Mutex<Process>>);

impl Guarded {
    /// Starts `command`.
    pub fn spawn(command: &mut Command) -> std::io::Result<Self> {
        Self::start(command, false)
    }

    /// Starts `command` as the leader of a process group, which is killed as a whole.
    pub fn spawn_group(command: &mut Command) -> std::io::Result<Self> {
        Self::start(command.process_group(0), true)
    }

    fn start(command: &mut Command, leads_group: bool) -> std::io::Result<Self> {
        // Hold the list's lock from the start of the process to its entry in the list, so that the
        // handler never misses a process.
        let mut list = locked(&GUARDED);
        let child = Arc::new(Mutex::new(Process { child: command.spawn()?, leads_group }));
        list.retain(|child| child.strong_count() > 0);
        list.push(Arc::downgrade(&child));
        drop(list);
        if interrupted() {
            locked(&child).kill();
        }
        Ok(Self(child))
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        locked(&self.0).child.id()
    }

    /// Standard input, output and error, where they are pipes; each is returned once.
    pub fn pipes(&self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        let child = &mut locked(&self.0).child;
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    }

    /// Waits for the process to end, at most `limit`. `None` means that it still runs.
    pub fn wait(&self, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            // Poll, so that the interrupt handler can take the lock.
            if let Some(status) = locked(&self.0).child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills the process, or its group, and reaps it.
    pub fn kill(&self) {
        let mut process = locked(&self.0);
        process.kill();
        // An error means that it has ended already.
        let _ = process.child.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs the command to its end with `input`. Returns its output; on failure the error carries the
/// last lines of it.
pub fn attempt(command: &mut Command, input: &str) -> Result<String> {
    let program = command.get_program().display().to_string();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let guarded = Guarded::spawn(command).with_context(|| format!("cannot start {program}"))?;
    let (stdin, stdout, stderr) = guarded.pipes();
    if let Some(mut stdin) = stdin {
        // A program that has ended already does not read; its exit code says more than this error
        // would.
        let _ = stdin.write_all(input.as_bytes());
    }
    let (out, err) = (gather(stdout), gather(stderr));
    let status = guarded.wait(PATIENCE)?;
    guarded.kill();
    let said = [err, out].map(|reader| reader.join().unwrap_or_default()).concat();
    match status {
        Some(status) if status.success() => Ok(said),
        Some(_) => bail!("{}", tail(said.trim(), 3)),
        None => bail!("{program} did not end within {} s", PATIENCE.as_secs()),
    }
}

fn gather(from: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // After a read error, return what was read before it.
        let _ = from.map(|mut from| from.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Locks, even after another thread panicked: that is no reason to leave a process behind.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_guard_leaves_no_process() {
        let guarded = Guarded::spawn(Command::new("sleep").arg("600")).unwrap();
        assert!(guarded.wait(Duration::from_millis(5)).unwrap().is_none());
        let child = Arc::clone(&guarded.0);
        drop(guarded);
        assert!(locked(&child).child.try_wait().unwrap().is_some());
    }

    #[test]
    fn a_group_is_killed_as_a_whole() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 600 & echo started; wait"]).stdout(Stdio::piped());
        let guarded = Guarded::spawn_group(&mut shell).unwrap();
        let mut stdout = guarded.pipes().1.unwrap();
        let mut started = [0; 8];
        stdout.read_exact(&mut started).unwrap();
        guarded.kill();
        // The pipe ends only when the sleeping process, which has inherited it, has ended too.
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).unwrap();
        assert_eq!((started.as_slice(), rest.len()), (&b"started\n"[..], 0));
    }

    #[test]
    fn an_exit_code_comes_through() {
        let guarded = Guarded::spawn(Command::new("sh").args(["-c", "exit 42"])).unwrap();
        assert_eq!(guarded.wait(Duration::from_secs(10)).unwrap().unwrap().code(), Some(42));
    }

    #[test]
    fn a_trial_that_fails_shows_its_last_words() {
        let error =
            attempt(Command::new("sh").args(["-c", "cat; echo why >&2; exit 3"]), "heard\n")
                .unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
        assert_eq!(attempt(Command::new("cat").arg("-"), "heard\n").unwrap(), "heard\n");
    }
}
