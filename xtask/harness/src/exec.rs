//! `--exec`: any command that starts the Image in place of QEMU, and the console that it prints on.
//!
//! - A shell runs the command in the current directory: a VMM, an emulator, a script that resets a
//!   board.
//! - The console is the command's standard output, or what `--console` names: a file that grows, a
//!   FIFO, a Unix socket, or a serial device, whose speed the command sets.
//! - The run ends with the kernel's last marker, with the console's or the command's end, or at the
//!   time limit. Then the command's whole process group is killed.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::{
        fs::{FileTypeExt, OpenOptionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    console::{Stream, WithoutRecords},
    error::Usage,
    events::{Event, Kind, Log},
    processes::{Guarded, Interrupted, interrupted},
    qemu::shell_word,
    run::{Patience, listen},
    verdict::{End, exit_code},
};

/// The pause between two looks at a console that has nothing new.
const PAUSE: Duration = Duration::from_millis(10);

/// A command that starts the Image.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Your own parts")]
pub struct Exec {
    /// A shell command that starts the Image, instead of QEMU: a VMM, an emulator, a script. It
    /// gets {image}, {disk} or {initrd} (the FIT to restart from), {append} (the bootargs), {dtb}
    /// (--dtb's file) and {folder} (for the run's files), each quoted for the shell
    #[arg(long = "exec", value_name = "CMD")]
    pub line: Option<String>,
    /// The console, if it is not the command's standard output: a file, a FIFO, a Unix socket or a
    /// serial device
    #[arg(long, value_name = "PATH")]
    pub console: Option<PathBuf>,
}

/// The values of a command's placeholders.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// The Image.
    pub image: &'a Path,
    /// The FIT, for `{disk}` and `{initrd}`.
    pub fit: Option<&'a Path>,
    /// The bootargs.
    pub append: &'a str,
    /// The device tree that the user gave.
    pub dtb: Option<&'a Path>,
    /// The run's folder.
    pub folder: &'a Path,
}

/// Returns whether the command takes the FIT, so that the kernel can kexec.
pub fn takes_fit(line: &str) -> bool {
    line.contains("{disk}") || line.contains("{initrd}")
}

/// Fills the placeholders in. One without a value is a usage error.
pub fn fill(line: &str, values: &Values<'_>) -> std::result::Result<String, Usage> {
    let path = |path: &Path| path.display().to_string();
    let values = [
        ("{image}", Some(path(values.image))),
        ("{disk}", values.fit.map(path)),
        ("{initrd}", values.fit.map(path)),
        ("{append}", Some(values.append.to_owned())),
        ("{dtb}", values.dtb.map(path)),
        ("{folder}", Some(path(values.folder))),
    ];
    let mut filled = line.to_owned();
    for (name, value) in values {
        if filled.contains(name) {
            let value =
                value.ok_or_else(|| Usage(format!("--exec: there is no file for {name}")))?;
            filled = filled.replace(name, &shell_word(&value));
        }
    }
    Ok(filled)
}

/// A command to start, and the limits on it.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The filled-in command.
    pub line: &'a str,
    /// The console, if it is not the command's standard output.
    pub console: Option<&'a Path>,
    /// The folder for `console.log`, `messages.log` and `events.jsonl`.
    pub folder: &'a Path,
    /// The longest that the run may take.
    pub timeout: Duration,
    /// The longest that the console may be silent.
    pub silence: Option<Duration>,
    /// Show the console.
    pub echo: bool,
    /// A counter that counts the generations as they start.
    pub seen: Option<&'a AtomicU64>,
}

/// The result of a command.
#[derive(Debug)]
pub struct Followed {
    /// Why we stopped reading the console.
    pub end: End,
    /// The command's exit code, if it ended by itself.
    pub code: Option<i32>,
    /// The whole console, with plain line ends.
    pub console: String,
    /// The command's own messages: standard error, and standard output if the console is elsewhere.
    pub messages: String,
    /// The events, in order.
    pub events: Vec<Event>,
    /// The time from the command's start to its end.
    pub elapsed: Duration,
}

/// The time that the machine may take to end after the kernel's last marker.
const TO_END: Duration = Duration::from_secs(2);

/// The time for which we keep reading after a command has failed.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Starts the command and reads its console to the end.
///
/// # Errors
///
/// The command does not start, a file cannot be written, or we were interrupted.
pub fn follow(start: &Start<'_>) -> Result<Followed> {
    let is_over = Arc::new(AtomicBool::new(false));
    let at = start.console.map(|path| ConsoleAt::new(path, Arc::clone(&is_over))).transpose()?;
    let mut command = Command::new("sh");
    // Its output is messages, if the console is elsewhere.
    let line = match at {
        Some(_) => format!("exec >&2\n{}", start.line),
        None => start.line.to_owned(),
    };
    command.args(["-c", &line]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let child = Guarded::spawn_group(&mut command).context("cannot start sh")?;
    let (_, stdout, stderr) = child.pipes();
    let console: Box<dyn Read + Send> = match at {
        Some(at) => Box::new(at),
        None => Box::new(stdout.context("sh has no standard output")?),
    };
    let messages = stderr.context("sh has no standard error")?;
    let show = |to: Box<dyn Write + Send>| start.echo.then_some(to);
    let (sender, lines) = mpsc::channel();
    let file = |name: &str| start.folder.join(name);
    let shown = show(Box::new(WithoutRecords::to(io::stdout())));
    let console = Stream::read(console, &file("console.log"), shown, Some(sender), started)?;
    let shown = show(Box::new(io::stderr()));
    let messages = Stream::read(messages, &file("messages.log"), shown, None, started)?;

    let mut log = Log::create(&file("events.jsonl"))?;
    let patience = Patience {
        deadline: Some(started + start.timeout),
        silence: start.silence,
        after_marker: Some(TO_END),
    };
    let is_heard = AtomicBool::new(false);
    let end = thread::scope(|scope| {
        if start.console.is_some() {
            scope.spawn(|| watch(&child, &is_heard, &is_over));
        }
        let end = listen(&lines, patience, start.seen, &mut log);
        is_heard.store(true, Ordering::SeqCst);
        end
    })?;
    // After a marker, `listen` has waited already.
    let wait = if end == End::Console { TO_END } else { Duration::ZERO };
    let code = child.wait(wait)?.map(exit_code);
    child.kill();
    is_over.store(true, Ordering::SeqCst);
    let elapsed = started.elapsed();
    let [console, messages] = [console, messages].map(|stream| stream.finish_within(TO_END));
    log.drain(&lines)?;
    let words = code.map_or("killed".to_owned(), |code| format!("exit code {code}"));
    log.add(Event { at: elapsed, kind: Kind::Exit, line: words })?;
    if interrupted() {
        return Err(Interrupted.into());
    }
    // A console that ends does not end the machine behind it.
    let end = if end == End::Console && code.is_none() { End::Marked } else { end };
    Ok(Followed { end, code, console, messages, events: log.events, elapsed })
}

/// Ends the reading of a console elsewhere once the command has failed.
///
/// A command that succeeds may only have started a machine, which runs on. One that fails has
/// started none.
fn watch(child: &Guarded, is_heard: &AtomicBool, is_over: &AtomicBool) {
    while !is_heard.load(Ordering::SeqCst) {
        match child.wait(PAUSE * 5) {
            Ok(None) => {}
            Ok(Some(status)) if status.success() => return,
            _ => {
                thread::sleep(LAST_WORDS);
                return is_over.store(true, Ordering::SeqCst);
            }
        }
    }
}

/// A console at a path, which may appear only after the command has started.
///
/// A read waits for bytes. It ends when `is_over` is set and nothing is left, or when a socket's
/// other end closes.
pub struct ConsoleAt {
    path: PathBuf,
    open: Option<Open>,
    is_over: Arc<AtomicBool>,
}

enum Open {
    /// A regular file, a FIFO or a device: its end is no end, more may come.
    File(File),
    Socket(UnixStream),
}

impl ConsoleAt {
    /// Waits for the console at `path`. Refuses a path in a folder that does not exist.
    pub fn new(path: &Path, is_over: Arc<AtomicBool>) -> std::result::Result<Self, Usage> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        match folder.is_none_or(Path::is_dir) {
            true => Ok(Self { path: path.to_owned(), open: None, is_over }),
            false => Err(Usage(format!("--console: {} is in no folder", path.display()))),
        }
    }

    fn open(&self) -> io::Result<Open> {
        if std::fs::metadata(&self.path)?.file_type().is_socket() {
            let socket = UnixStream::connect(&self.path)?;
            socket.set_read_timeout(Some(PAUSE))?;
            return Ok(Open::Socket(socket));
        }
        /// O_NONBLOCK | O_NOCTTY, so that a silent device does not hold us, nor its hang-up end us.
        #[cfg(target_os = "linux")]
        const FLAGS: i32 = 0o4000 | 0o400;
        #[cfg(not(target_os = "linux"))]
        const FLAGS: i32 = 0x4 | 0x2_0000;
        OpenOptions::new().read(true).custom_flags(FLAGS).open(&self.path).map(Open::File)
    }
}

impl Read for ConsoleAt {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // Look first, then read: bytes that came before the end are not lost.
            let is_over = self.is_over.load(Ordering::SeqCst);
            if self.open.is_none() {
                // Its starter has not made it yet.
                self.open = self.open().ok();
            }
            let read = match &mut self.open {
                Some(Open::File(file)) => file.read(buffer),
                Some(Open::Socket(socket)) => match socket.read(buffer) {
                    Ok(0) => return Ok(0),
                    read => read,
                },
                None => Ok(0),
            };
            match read {
                Ok(count @ 1..) => return Ok(count),
                Ok(0) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
            if is_over {
                return Ok(0);
            }
            thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn values<'a>() -> Values<'a> {
        Values {
            image: Path::new("/a b/Image"),
            fit: Some(Path::new("/x/disk.itb")),
            append: "check console='x'",
            dtb: None,
            folder: Path::new("/x"),
        }
    }

    #[test]
    fn a_shell_gets_each_value_as_one_word() {
        let line = fill("printf '%s|' {image} {append} {disk} {initrd} '{}'", &values()).unwrap();
        let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "/a b/Image|check console='x'|/x/disk.itb|/x/disk.itb|{}|"
        );
        let error = fill("vmm --dtb {dtb}", &values()).unwrap_err().to_string();
        assert!(error.contains("{dtb}"), "{error}");
        assert!(takes_fit("vmm {initrd}") && takes_fit("vmm {disk}") && !takes_fit("vmm {image}"));
    }

    #[test]
    fn a_file_is_read_as_it_grows_and_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let is_over = Arc::new(AtomicBool::new(false));
        let mut console = ConsoleAt::new(&path, Arc::clone(&is_over)).unwrap();
        let writer = thread::spawn(move || {
            thread::sleep(PAUSE * 3);
            let mut file = File::create(&path).unwrap();
            file.write_all(b"one ").unwrap();
            thread::sleep(PAUSE * 3);
            file.write_all(b"two").unwrap();
            is_over.store(true, Ordering::SeqCst);
        });
        let mut text = String::new();
        console.read_to_string(&mut text).unwrap();
        writer.join().unwrap();
        assert_eq!(text, "one two");
    }

    #[test]
    fn a_socket_ends_with_its_other_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut console = ConsoleAt::new(&path, Arc::default()).unwrap();
        let writer = thread::spawn(move || {
            listener.accept().unwrap().0.write_all(b"words").unwrap();
        });
        let mut text = String::new();
        console.read_to_string(&mut text).unwrap();
        writer.join().unwrap();
        assert_eq!(text, "words");
        assert!(ConsoleAt::new(Path::new("/no/such/folder/console"), Arc::default()).is_err());
    }
}
