//! A run: one QEMU from start to end, bounded in time, with a folder that tells what happened.
//!
//! *When:* for `run`, for each case of the test matrix and for each measurement; several runs may go on at once.
//! A run is a success when the kernel said so and QEMU's exit code, where the guest may set it, agrees. A run that is out
//! of time, or whose CPU said that it stops, is asked where it stands (over QMP and the gdb stub) before it is ended.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    config::{Config, Machine, Virtio},
    console::{self, Event, Kind, Line, Stream},
    explain,
    folder::{self, Folder},
    kernel_build::Built,
    processes::{Guarded, Interrupted, interrupted},
    qemu::{self, Choice},
};

/// How long a CPU that stopped may go on printing.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// How long QEMU may take to end after its console has.
const TO_END: Duration = Duration::from_secs(5);

/// How long the questions to a QEMU that is about to be ended may take.
const TO_EXPLAIN: Duration = Duration::from_secs(20);

/// Where a debugger reaches a run with `gdb`; this host only.
const DEBUGGER: &str = "127.0.0.1:1234";

/// What the machine restarts from.
#[derive(Clone, Debug)]
pub enum Disk {
    /// These bytes; they are kept in the run's folder.
    Bytes(Arc<Vec<u8>>),
    /// A file, opened where it lies.
    File(PathBuf),
    /// The machine has no disk.
    None,
}

/// A run to be made.
#[derive(Clone, Debug)]
pub struct Request {
    /// The machine's name, for people.
    pub name: String,
    /// qemu.toml.
    pub config: Arc<Config>,
    /// The machine's table.
    pub machine: Machine,
    /// In place of the machine's own.
    pub cpu: Option<String>,
    /// In place of the machine's own.
    pub memory: Option<String>,
    /// In place of the machine's own.
    pub virtio: Option<Virtio>,
    /// The whole of /chosen/bootargs.
    pub bootargs: String,
    /// May the guest call the host, and so set the exit code? For our own kernel only. Otherwise the console decides.
    pub semihosting: bool,
    /// What the bootargs' random choices are drawn from.
    pub seed: u64,
    /// The kernel as built: what is booted, and its symbols.
    pub kernel: Arc<Built>,
    /// Booted in place of the kernel's own Image: a patched one.
    pub image: Option<Vec<u8>>,
    /// What it restarts from.
    pub disk: Disk,
    /// How the disk is opened, with `{disk}` for its path; [`qemu::DRIVE`] is the usual way.
    pub drive: String,
    /// The longest that the run may take.
    pub timeout: Duration,
    /// More words for QEMU; `{folder}` stands for the run's folder.
    pub args: Vec<String>,
    /// Show the command line and the console.
    pub echo: bool,
    /// Keep the folder of a success too.
    pub keep: bool,
    /// Start stopped, with a gdb stub for a person, and without a limit in time.
    pub gdb: bool,
    /// The line that makes this run again; without one it is the folder's `command`.
    pub again: Option<String>,
}

impl Request {
    /// A run of `kernel` on the machine `name`, quiet, without a disk.
    pub fn new(config: &Arc<Config>, name: &str, kernel: &Arc<Built>) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            config: Arc::clone(config),
            machine: config.machine(name)?.clone(),
            cpu: None,
            memory: None,
            virtio: None,
            bootargs: String::new(),
            semihosting: true,
            seed: 0,
            kernel: Arc::clone(kernel),
            image: None,
            disk: Disk::None,
            drive: qemu::DRIVE.to_owned(),
            timeout: Duration::from_secs(60),
            args: Vec::new(),
            echo: false,
            keep: false,
            gdb: false,
            again: None,
        })
    }

    /// QEMU's words without the sockets for questions: what anyone may type to repeat the run.
    fn words(&self, image: &Path, disk: Option<&Path>, folder: &Path) -> Vec<String> {
        let choice = Choice {
            machine: &self.machine,
            cpu: self.cpu.as_deref(),
            memory: self.memory.as_deref(),
            virtio: self.virtio,
            semihosting: self.semihosting,
        };
        let mut words = vec![qemu::QEMU.to_owned()];
        words.extend(choice.words(&self.config));
        words.extend(qemu::console());
        words.extend(disk.map(|disk| qemu::disk(disk, &self.drive)).unwrap_or_default());
        words.extend(["-kernel", &image.display().to_string(), "-append", &self.bootargs].map(str::to_owned));
        words.extend(self.args.iter().map(|arg| arg.replace("{folder}", &folder.display().to_string())));
        words
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// As ordered.
    Success,
    /// Not as ordered; QEMU's exit code, or 128 and the number of the signal that ended it.
    Failed(i32),
    /// xtask ended it: it was out of time.
    TimedOut,
    /// xtask ended it: its CPU had said that it stops.
    Stopped,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// The whole console, with plain line ends.
    pub console: String,
    /// What QEMU itself said.
    pub qemu: String,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// The run's folder. A success without `keep` has taken it away.
    pub folder: Folder,
    /// Where each CPU stood, if xtask ended the run.
    pub explanation: Option<String>,
    /// From QEMU's start to its end.
    pub elapsed: Duration,
}

/// Makes the run. An error means that there was none: QEMU did not start, a file could not be written, Ctrl-C.
pub fn run(request: &Request) -> Result<Outcome> {
    let folder = Folder::create(&folder::stamp(&request.name))?;
    let image = folder.write("Image", request.image.as_ref().unwrap_or(&request.kernel.image))?;
    let disk = match &request.disk {
        Disk::Bytes(bytes) => Some(folder.write("disk.itb", bytes.as_slice())?),
        Disk::File(path) => Some(path.clone()),
        Disk::None => None,
    };
    let elf = folder.file(&format!("kernel-{}.elf", request.kernel.build_id));
    std::fs::copy(&request.kernel.elf, &elf)
        .with_context(|| format!("cannot copy the kernel's ELF to {}", elf.display()))?;
    folder.write("seed", format!("{:#018x}\n", request.seed))?;
    let words = request.words(&image, disk.as_deref(), folder.path());
    folder.write("command", qemu::shell_line(&words) + "\n")?;

    // Sockets have short names: the system's limit on theirs is about 100 bytes, a folder's path may be longer.
    let sockets =
        tempfile::Builder::new().prefix("xtask").tempdir().context("cannot make a folder for QEMU's sockets")?;
    let (qmp, gdb) = (sockets.path().join("qmp"), sockets.path().join("gdb"));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let debugger = ["-S", "-gdb", &format!("tcp:{DEBUGGER}")].map(str::to_owned);
    command.args(if request.gdb { debugger.to_vec() } else { qemu::questions(&qmp, &gdb) });
    if request.echo {
        println!("{}", qemu::shell_line(&words));
        if request.gdb {
            println!(
                "QEMU waits for a debugger. In another terminal:\n  {}",
                crate::doctor::debugger_line(&elf, DEBUGGER)
            );
        }
    }

    let started = Instant::now();
    let child = Guarded::spawn(&mut command).with_context(|| format!("cannot start {}", qemu::QEMU))?;
    let (_, stdout, stderr) = child.pipes();
    let (sender, lines) = mpsc::channel();
    let show = |to: Box<dyn Write + Send>| request.echo.then_some(to);
    let console = stdout.context("QEMU has no standard output")?;
    let console =
        Stream::read(console, &folder.file("console.log"), show(Box::new(io::stdout())), Some(sender), started)?;
    let qemu = stderr.context("QEMU has no standard error")?;
    let qemu = Stream::read(qemu, &folder.file("qemu.log"), show(Box::new(io::stderr())), None, started)?;

    let mut log = Log::create(&folder)?;
    let deadline = (!request.gdb).then(|| started + request.timeout);
    let end = listen(&lines, deadline, &mut log)?;
    let mut explanation = None;
    let status = match end {
        End::Console => child.wait(TO_END)?,
        End::OutOfTime | End::Stopped => {
            if end == End::OutOfTime {
                let words = format!("out of time after {:.1} s", started.elapsed().as_secs_f64());
                log.add(Event { at: started.elapsed(), kind: Kind::TimedOut, line: words })?;
            }
            let text = explain(&child, &qmp, &gdb, &elf, &console.text());
            folder.write("explanation.txt", &text)?;
            explanation = Some(text);
            None
        }
    };
    child.kill();
    let elapsed = started.elapsed();
    let (console, qemu) = (console.finish(), qemu.finish());
    log.drain(&lines)?;
    let code = status.map(exit_code);
    let words = code.map_or("ended by xtask".to_owned(), |code| format!("exit code {code}"));
    log.add(Event { at: elapsed, kind: Kind::Exit, line: words })?;
    if interrupted() {
        return Err(Interrupted.into());
    }

    let verdict = judge(end, code, request.semihosting, &log.events);
    if verdict == Verdict::Success && !request.keep {
        folder.discard()?;
    }
    Ok(Outcome { verdict, console, qemu, events: log.events, folder, explanation, elapsed })
}

/// Why we stopped listening.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// The console ended, and QEMU with it.
    Console,
    /// The deadline came.
    OutOfTime,
    /// A CPU stopped, and its last words are over.
    Stopped,
}

/// Listens to the console until there is a reason to stop.
fn listen(lines: &mpsc::Receiver<Line>, deadline: Option<Instant>, log: &mut Log) -> Result<End> {
    let mut limit = deadline.map(|at| (at, End::OutOfTime));
    loop {
        let heard = match limit {
            Some((at, _)) => lines.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match (heard, limit) {
            (Ok(line), Some((at, _))) => {
                if log.line(line)? == Some(Kind::Stopped) {
                    limit = Some((at.min(Instant::now() + LAST_WORDS), End::Stopped));
                }
            }
            // With a debugger, a CPU that stopped is there to be looked at.
            (Ok(line), None) => _ = log.line(line)?,
            (Err(RecvTimeoutError::Timeout), Some((_, end))) => return Ok(end),
            (Err(_), _) => return Ok(End::Console),
        }
    }
}

/// Asks the QEMU that is about to be ended where its CPUs stand. It does not answer for ever: after a while it is ended
/// under the question.
fn explain(child: &Guarded, qmp: &Path, gdb: &Path, elf: &Path, console: &str) -> String {
    let (sender, done) = mpsc::channel::<()>();
    let explanation = std::thread::scope(|scope| {
        scope.spawn(move || {
            if done.recv_timeout(TO_EXPLAIN) == Err(RecvTimeoutError::Timeout) {
                child.kill();
            }
        });
        let explanation = explain::explain(&explain::Target { qmp, gdb, elf, console });
        drop(sender);
        explanation
    });
    explanation.unwrap_or_else(|error| format!("QEMU did not tell where its CPUs stood: {error:#}"))
}

/// A shell's view of how a process ended.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The verdict: the console decides, and the exit code too where the guest may set it.
fn judge(end: End, code: Option<i32>, semihosting: bool, events: &[Event]) -> Verdict {
    let seen = |kind| events.iter().any(|event| event.kind == kind);
    let as_ordered = seen(Kind::Success) && !seen(Kind::Failure) && !seen(Kind::Stopped);
    match (end, code) {
        (End::OutOfTime, _) => Verdict::TimedOut,
        (End::Stopped, _) => Verdict::Stopped,
        // Its console closed, and it went on running all the same.
        (End::Console, None) => Verdict::TimedOut,
        (End::Console, Some(code)) if as_ordered && (code == 0 || !semihosting) => Verdict::Success,
        (End::Console, Some(code)) => Verdict::Failed(code),
    }
}

/// The events of a run: kept, and written as they come.
struct Log {
    file: File,
    events: Vec<Event>,
}

impl Log {
    fn create(folder: &Folder) -> Result<Self> {
        let path = folder.file("events.jsonl");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file, events: Vec::new() })
    }

    fn add(&mut self, event: Event) -> Result<()> {
        writeln!(self.file, "{}", event.json()).context("cannot write events.jsonl")?;
        self.events.push(event);
        Ok(())
    }

    /// Notes the line if it tells something.
    fn line(&mut self, line: Line) -> Result<Option<Kind>> {
        let kind = console::classify(&line.text);
        if let Some(kind) = kind {
            self.add(Event { at: line.at, kind, line: line.text })?;
        }
        Ok(kind)
    }

    /// Notes what was heard and not yet listened to.
    fn drain(&mut self, lines: &mpsc::Receiver<Line>) -> Result<()> {
        lines.try_iter().try_for_each(|line| self.line(line).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(kinds: &[Kind]) -> Vec<Event> {
        kinds.iter().map(|&kind| Event { at: Duration::ZERO, kind, line: String::new() }).collect()
    }

    #[test]
    fn a_success_needs_the_marker_and_where_it_counts_the_code() {
        let good = events(&[Kind::Generation, Kind::Success]);
        assert_eq!(judge(End::Console, Some(0), true, &good), Verdict::Success);
        assert_eq!(judge(End::Console, Some(1), true, &good), Verdict::Failed(1));
        assert_eq!(judge(End::Console, Some(1), false, &good), Verdict::Success);
        assert_eq!(judge(End::Console, Some(0), true, &events(&[Kind::Generation])), Verdict::Failed(0));
    }

    #[test]
    fn a_success_that_is_taken_back_or_does_not_end_is_none() {
        assert_eq!(judge(End::Console, Some(0), true, &events(&[Kind::Success, Kind::Failure])), Verdict::Failed(0));
        assert_eq!(judge(End::Console, Some(0), false, &events(&[Kind::Success, Kind::Stopped])), Verdict::Failed(0));
        assert_eq!(judge(End::OutOfTime, None, true, &events(&[Kind::Success])), Verdict::TimedOut);
        assert_eq!(judge(End::Console, None, true, &events(&[Kind::Success])), Verdict::TimedOut);
        assert_eq!(judge(End::Stopped, None, true, &events(&[Kind::Stopped])), Verdict::Stopped);
    }

    #[test]
    fn a_cpu_that_stops_ends_the_listening_soon() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("events.jsonl")).unwrap();
        let mut log = Log { file, events: Vec::new() };
        let (sender, lines) = mpsc::channel();
        let text = "!! stopped".to_owned();
        sender.send(Line { at: Duration::ZERO, text }).unwrap();
        let started = Instant::now();
        let deadline = started + Duration::from_secs(600);
        assert_eq!(listen(&lines, Some(deadline), &mut log).unwrap(), End::Stopped);
        assert!(started.elapsed() < Duration::from_secs(60));
        assert_eq!(log.events.len(), 1);
    }

    #[test]
    fn a_silent_run_is_out_of_time_and_a_closed_console_is_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("events.jsonl")).unwrap();
        let mut log = Log { file, events: Vec::new() };
        let (sender, lines) = mpsc::channel();
        assert_eq!(listen(&lines, Some(Instant::now()), &mut log).unwrap(), End::OutOfTime);
        drop(sender);
        assert_eq!(listen(&lines, None, &mut log).unwrap(), End::Console);
    }
}
