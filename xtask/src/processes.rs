//! The processes that we started: none outlives us.
//!
//! *When:* `end_with_us` before any verb; `Guarded` around each QEMU. Ctrl-C (and SIGTERM, SIGHUP) kills every guarded
//! process; the verb that waits for one then sees its console end, finds `interrupted()` and cleans up on its way out.
//! Each guarded process is killed and reaped when its guard is dropped, so an error on any path leaves none behind either.

use std::{
    fmt,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// The exit code of an interrupted program, as shells have it: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;

/// How long the verb has to clean up after an interrupt, before we end without it.
const GRACE: Duration = Duration::from_secs(3);

static ASKED_TO_STOP: AtomicBool = AtomicBool::new(false);
static ENDS_ITSELF: AtomicBool = AtomicBool::new(false);
static GUARDED: Mutex<Vec<Weak<Mutex<Child>>>> = Mutex::new(Vec::new());

/// Ctrl-C was typed, or somebody asked us to end.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Were we asked to stop?
pub fn interrupted() -> bool {
    ASKED_TO_STOP.load(Ordering::SeqCst)
}

/// From here on an interrupt leaves the verb a moment to say what came of it, whether or not a process runs just then.
pub fn end_ourselves() {
    ENDS_ITSELF.store(true, Ordering::SeqCst);
}

/// From here on an interrupt ends what we started before it ends us.
pub fn end_with_us() -> Result<()> {
    ctrlc::set_handler(|| {
        ASKED_TO_STOP.store(true, Ordering::SeqCst);
        let alive: Vec<_> = locked(&GUARDED).iter().filter_map(Weak::upgrade).collect();
        for child in &alive {
            // An error means that it has ended already.
            let _ = locked(child).kill();
        }
        if !alive.is_empty() || ENDS_ITSELF.load(Ordering::SeqCst) {
            std::thread::sleep(GRACE);
        }
        std::process::exit(INTERRUPTED.into());
    })
    .context("cannot catch Ctrl-C")
}

/// A process that is killed when this value is dropped or we are interrupted.
pub struct Guarded(Arc<Mutex<Child>>);

impl Guarded {
    /// Starts `command`.
    pub fn spawn(command: &mut Command) -> std::io::Result<Self> {
        // Under the list's lock: the handler cannot look between the start and the entry.
        let mut list = locked(&GUARDED);
        let child = Arc::new(Mutex::new(command.spawn()?));
        list.retain(|child| child.strong_count() > 0);
        list.push(Arc::downgrade(&child));
        drop(list);
        if interrupted() {
            let _ = locked(&child).kill();
        }
        Ok(Self(child))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        locked(&self.0).id()
    }

    /// Its standard input, output and error, as far as they are pipes; each is given once.
    pub fn pipes(&self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        let mut child = locked(&self.0);
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    }

    /// Waits until it ends, `limit` at most; `None` says that it still runs.
    pub fn wait(&self, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            // In steps, so that the interrupt handler can have the lock.
            if let Some(status) = locked(&self.0).try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it at once.
    pub fn kill(&self) {
        let mut child = locked(&self.0);
        // Errors mean that it has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A panic elsewhere is no reason to leave a process behind.
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
        assert!(locked(&child).try_wait().unwrap().is_some());
    }

    #[test]
    fn an_exit_code_comes_through() {
        let guarded = Guarded::spawn(Command::new("sh").args(["-c", "exit 42"])).unwrap();
        assert_eq!(guarded.wait(Duration::from_secs(10)).unwrap().unwrap().code(), Some(42));
    }
}
