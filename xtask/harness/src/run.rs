//! A run: one QEMU from start to end, with a time limit and a folder of records.
//!
//! The verb `run`, every test and every measurement use it; several runs may be in progress at
//! once. A run succeeds if the kernel prints its success marker and QEMU's exit code agrees, where
//! the guest can set it. If a run exceeds its time or a CPU prints that it stops, we query where
//! each CPU stands, over QMP and the gdb stub, before we end QEMU. A command of the user's own
//! (`exec`) takes QEMU's place; we cannot query it.

use std::{
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    artifacts::{self, Artifacts},
    console::{Line, Stream, WithoutRecords},
    events::{Event, Kind, Log},
    exec::{self, Exec},
    frame_source::FrameSource,
    host_debugger,
    loader::VOLUME,
    postmortem,
    processes::{Guarded, Interrupted, interrupted},
    qemu,
    request::{Disk, Request},
    serial_input::SerialInput,
    verdict::{End, Verdict, exit_code, judge},
};

/// The time for which we keep reading after a CPU has stopped.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// The time that QEMU may take to end after its console has.
const TO_END: Duration = Duration::from_secs(5);

/// The time limit for querying a QEMU that is about to be ended.
const TO_EXPLAIN: Duration = Duration::from_secs(20);

/// The address at which a debugger reaches a run with `gdb`; reachable from this host only.
const DEBUGGER: &str = "127.0.0.1:1234";

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// The whole console, with plain line ends.
    pub console: String,
    /// QEMU's own messages.
    pub qemu: String,
    /// The events, in order.
    pub events: Vec<Event>,
    /// The run's folder. After a success without `keep` it is removed.
    pub folder: Artifacts,
    /// A description of where each CPU stood, if xtask ended the run.
    pub explanation: Option<String>,
    /// The time from QEMU's start to its end.
    pub elapsed: Duration,
}

/// Makes the run. An error means that it has no result: QEMU did not start, a file could not be
/// written, or we were interrupted.
pub fn run(request: &Request) -> Result<Outcome> {
    let folder = Artifacts::create(&artifacts::stamp(&request.name))?;
    let image = folder.write("Image", request.image.as_ref().unwrap_or(&request.kernel.image))?;
    request.loader.prepare(&image, &request.bootargs)?;
    for (name, bytes) in &request.volume {
        let path = folder.file(VOLUME).join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(&path))
            .and_then(|()| std::fs::write(&path, bytes))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let disk = match &request.disk {
        Disk::Bytes(bytes) => Some(folder.write("disk.itb", bytes.as_slice())?),
        Disk::File(path) => Some(path.clone()),
        Disk::None => None,
    };
    let elf = folder.file(&format!("kernel-{}.elf", request.kernel.build_id));
    std::fs::copy(&request.kernel.elf, &elf)
        .with_context(|| format!("cannot copy the kernel's ELF to {}", elf.display()))?;
    folder.write("seed", format!("{:#018x}\n", request.seed))?;
    let words = request.command(&image, disk.as_deref(), folder.path())?;
    folder.write("command", qemu::shell_line(&words) + "\n")?;
    if let Some(exec) = &request.exec {
        return run_exec(request, exec, &words[2], folder);
    }

    let sockets = artifacts::sockets()?;
    let (qmp, gdb) = (sockets.path().join("qmp"), sockets.path().join("gdb"));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let typed = request.typed();
    if let Some(typed) = &typed {
        folder.write("typed", typed)?;
    }
    if typed.is_some() || request.answer.is_some() {
        command.stdin(Stdio::piped());
    }
    let debugger = ["-S", "-gdb", &format!("tcp:{DEBUGGER}")].map(str::to_owned);
    command.args(if request.gdb { debugger.to_vec() } else { qemu::questions(&qmp, &gdb) });
    if request.echo {
        println!("{}", qemu::shell_line(&words));
        if request.gdb {
            println!(
                "QEMU waits for a debugger. In another terminal:\n  {}",
                host_debugger::line(&elf, DEBUGGER)
            );
        }
    }

    let frame_source =
        request.network.then(|| FrameSource::to(&Request::socket(folder.path()))).transpose()?;
    let started = Instant::now();
    let child =
        Guarded::spawn(&mut command).with_context(|| format!("cannot start {}", words[0]))?;
    let (mut keyboard, stdout, stderr) = child.pipes();
    if let (Some(keyboard), Some(typed)) = (&mut keyboard, typed) {
        // This blocks until QEMU has read it; the guest's serial port sets the pace.
        keyboard.write_all(typed.as_bytes()).context("cannot type on the console")?;
    }
    let (sender, lines) = mpsc::channel();
    let show = |to: Box<dyn Write + Send>| request.echo.then_some(to);
    let console = stdout.context("QEMU has no standard output")?;
    let console = Stream::read(
        console,
        &folder.file("console.log"),
        show(Box::new(WithoutRecords::to(io::stdout()))),
        Some(sender),
        started,
    )?;
    let qemu = stderr.context("QEMU has no standard error")?;
    let qemu =
        Stream::read(qemu, &folder.file("qemu.log"), show(Box::new(io::stderr())), None, started)?;

    let serial_input = request
        .answer
        .and_then(|answer| Some(SerialInput::new(keyboard.take()?, answer, &console)));

    let mut log = Log::create(&folder.file("events.jsonl"))?;
    let patience = Patience {
        deadline: (!request.gdb).then(|| started + request.timeout + request.loader.patience()),
        silence: request.silence.filter(|_| !request.gdb),
        after_marker: None,
    };
    let end = listen(&lines, patience, request.seen.as_deref(), &mut log)?;
    let mut explanation = None;
    let status = match end {
        End::Console | End::Marked => child.wait(TO_END)?,
        End::OutOfTime | End::Stopped => {
            if end == End::OutOfTime {
                let words = format!("out of time after {:.1} s", started.elapsed().as_secs_f64());
                log.add(Event { at: started.elapsed(), kind: Kind::TimedOut, line: words })?;
            }
            let text = postmortem(&child, &qmp, &gdb, &elf, &console.text());
            folder.write("explanation.txt", &text)?;
            explanation = Some(text);
            None
        }
    };
    child.kill();
    drop(serial_input);
    drop(frame_source);
    let elapsed = started.elapsed();
    let (console, qemu) = (console.finish(), qemu.finish());
    log.drain(&lines)?;
    let code = status.map(exit_code);
    let words = code.map_or("ended by xtask".to_owned(), |code| format!("exit code {code}"));
    log.add(Event { at: elapsed, kind: Kind::Exit, line: words })?;
    if interrupted() {
        return Err(Interrupted.into());
    }

    let verdict = judge(end, code, request.semihosting, request.payload, &log.events);
    if verdict == Verdict::Success && !request.keep {
        folder.discard()?;
    }
    Ok(Outcome { verdict, console, qemu, events: log.events, folder, explanation, elapsed })
}

/// Makes the run with the user's own command.
fn run_exec(request: &Request, exec: &Exec, line: &str, folder: Artifacts) -> Result<Outcome> {
    if request.echo {
        println!("{line}");
    }
    let followed = exec::follow(&exec::Start {
        line,
        console: exec.console.as_deref(),
        folder: folder.path(),
        timeout: request.timeout,
        silence: request.silence,
        echo: request.echo,
        seen: request.seen.as_deref(),
    })?;
    let exec::Followed { end, code, console, messages, events, elapsed } = followed;
    let verdict = judge(end, code, false, request.payload, &events);
    if verdict == Verdict::Success && !request.keep {
        folder.discard()?;
    }
    Ok(Outcome { verdict, console, qemu: messages, events, folder, explanation: None, elapsed })
}

/// The limits on waiting for a run's console.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) deadline: Option<Instant>,
    /// The longest wait from one line to the next.
    pub(crate) silence: Option<Duration>,
    /// The longest wait for the machine's end after the kernel's last marker, if that marker counts
    /// as an end.
    pub(crate) after_marker: Option<Duration>,
}

/// Reads the console until it ends, a limit is reached or a CPU stops; counts the generations that
/// start.
pub(crate) fn listen(
    lines: &mpsc::Receiver<Line>,
    patience: Patience,
    seen: Option<&AtomicU64>,
    log: &mut Log,
) -> Result<End> {
    let mut limit = patience.deadline.map(|at| (at, End::OutOfTime));
    loop {
        let quiet = patience.silence.map(|silence| (Instant::now() + silence, End::OutOfTime));
        let limit_now = [limit, quiet].into_iter().flatten().min_by_key(|&(at, _)| at);
        let heard = match limit_now {
            Some((at, _)) => lines.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match (heard, limit_now) {
            (Ok(line), Some((at, _))) => match log.line(line)? {
                Some(Kind::Stopped) => {
                    limit = Some((at.min(Instant::now() + LAST_WORDS), End::Stopped))
                }
                Some(Kind::Success | Kind::Failure) if let Some(wait) = patience.after_marker => {
                    limit = Some((at.min(Instant::now() + wait), End::Marked))
                }
                Some(Kind::Generation) => _ = seen.map(|seen| seen.fetch_add(1, Ordering::Relaxed)),
                _ => {}
            },
            // Without a limit there is a debugger, and a CPU that stopped is left for the user to
            // inspect.
            (Ok(line), None) => _ = log.line(line)?,
            (Err(RecvTimeoutError::Timeout), Some((_, end))) => return Ok(end),
            (Err(_), _) => return Ok(End::Console),
        }
    }
}

/// Queries where the CPUs of a QEMU stand that is about to be ended. If QEMU does not answer in
/// time, we kill it, which ends the query.
fn postmortem(child: &Guarded, qmp: &Path, gdb: &Path, elf: &Path, console: &str) -> String {
    let (sender, done) = mpsc::channel::<()>();
    let explanation = std::thread::scope(|scope| {
        scope.spawn(move || {
            if done.recv_timeout(TO_EXPLAIN) == Err(RecvTimeoutError::Timeout) {
                child.kill();
            }
        });
        let explanation = postmortem::postmortem(&postmortem::Target { qmp, gdb, elf, console });
        drop(sender);
        explanation
    });
    explanation
        .unwrap_or_else(|error| format!("QEMU did not report where its CPUs stood: {error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_stops_ends_the_listening_soon() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::create(&folder.path().join("events.jsonl")).unwrap();
        let (sender, lines) = mpsc::channel();
        let text = "!! stopped".to_owned();
        sender.send(Line { at: Duration::ZERO, text }).unwrap();
        let started = Instant::now();
        let patience = Patience {
            deadline: Some(started + Duration::from_secs(600)),
            silence: None,
            after_marker: None,
        };
        assert_eq!(listen(&lines, patience, None, &mut log).unwrap(), End::Stopped);
        assert!(started.elapsed() < Duration::from_secs(60));
        assert_eq!(log.events.len(), 1);
    }

    #[test]
    fn a_silent_run_is_out_of_time_and_a_closed_console_is_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::create(&folder.path().join("events.jsonl")).unwrap();
        let (sender, lines) = mpsc::channel();
        let now = Patience { deadline: Some(Instant::now()), silence: None, after_marker: None };
        assert_eq!(listen(&lines, now, None, &mut log).unwrap(), End::OutOfTime);
        let silent = Patience {
            deadline: None,
            silence: Some(Duration::from_millis(1)),
            after_marker: None,
        };
        assert_eq!(listen(&lines, silent, None, &mut log).unwrap(), End::OutOfTime);
        let seen = AtomicU64::new(0);
        sender.send(Line { at: Duration::ZERO, text: "[0] Generation 0 of 1".to_owned() }).unwrap();
        drop(sender);
        let patient = Patience {
            deadline: None,
            silence: Some(Duration::from_secs(600)),
            after_marker: None,
        };
        assert_eq!(listen(&lines, patient, Some(&seen), &mut log).unwrap(), End::Console);
        assert_eq!(seen.into_inner(), 1);
    }
}
