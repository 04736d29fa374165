//! A client for the gdb remote protocol: enough to read, stop and step a guest.
//!
//! QEMU's stub stops the machine when a client connects, and serves one client at a time. Packets
//! are `$payload#checksum`; the receiver acknowledges each by `+` or requests it again by `-` (gdb
//! manual, "Remote Protocol"). `target.xml` and the files it includes map register names to
//! numbers. QEMU lists the CPU's system registers there, by names that differ between its versions.

use std::{
    collections::HashMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// The longest wait for a byte.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest wait until a running guest stops. The run's own time limit ends QEMU, and so the
/// connection, earlier.
const UNTIL_STOPPED: Duration = Duration::from_secs(600);
/// Retransmissions of a packet before the client gives up.
const RETRIES: usize = 3;
/// Bytes of memory per packet. QEMU's packets hold 4096 characters, two per byte.
const CHUNK: usize = 1024;

/// Bytes of the general registers: 33 of 64 bits and one of 32 bits.
const GENERAL: usize = 33 * 8 + 4;

/// A connection to a gdb stub, with the guest stopped.
pub struct Gdb {
    stream: UnixStream,
    received: Vec<u8>,
    numbers: HashMap<String, usize>,
}

impl Gdb {
    /// Connects to the stub's socket and reads the register names. Memory access is physical from
    /// then on.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("no gdb stub at {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut gdb = Self { stream, received: Vec::new(), numbers: HashMap::new() };
        gdb.ask("qSupported:xmlRegisters=aarch64")
            .context("does another client hold the gdb stub?")?;
        let target = gdb.document("target.xml")?;
        let mut features = vec![target.clone()];
        for name in attributes(&target, "xi:include", "href") {
            features.push(gdb.document(name)?);
        }
        gdb.numbers = numbers(&features);
        // Read physical memory, so that a wrong page table, or none, does not matter.
        gdb.expect_ok("Qqemu.PhyMemMode:1")
            .context("QEMU is older than 4.1: it cannot read physical memory")?;
        Ok(gdb)
    }

    /// Returns the stub's names of its CPUs, in numerical order.
    pub fn threads(&mut self) -> Result<Vec<String>> {
        let mut threads = Vec::new();
        let mut reply = self.ask("qfThreadInfo")?;
        while let Some(names) = reply.strip_prefix('m') {
            threads.extend(names.split(',').map(str::to_owned));
            reply = self.ask("qsThreadInfo")?;
        }
        ensure!(!threads.is_empty(), "the gdb stub names no CPU: {reply}");
        Ok(threads)
    }

    /// Selects the thread whose registers later calls read.
    pub fn select(&mut self, thread: &str) -> Result<()> {
        self.expect_ok(&format!("Hg{thread}"))
    }

    /// Returns the names of all registers, in numerical order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.numbers.iter().collect();
        names.sort_by_key(|&(_, number)| number);
        names.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// Reads the register that has one of `names`; `None` if this CPU, or this QEMU, has none of
    /// them.
    pub fn register(&mut self, names: &[&str]) -> Result<Option<u64>> {
        let Some(number) = names.iter().find_map(|name| self.numbers.get(*name)).copied() else {
            return Ok(None);
        };
        let reply = self.ask(&format!("p{number:x}"))?;
        let bytes = from_hex(&reply).with_context(|| format!("register {}: {reply}", names[0]))?;
        Ok(little_endian(&bytes))
    }

    /// Reads `size` bytes of physical memory.
    pub fn memory(&mut self, address: u64, size: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            let (at, length) = (address + bytes.len() as u64, CHUNK.min(size - bytes.len()));
            let reply = self.ask(&format!("m{at:x},{length:x}"))?;
            let part = from_hex(&reply).filter(|part| part.len() == length);
            bytes.extend(part.with_context(|| format!("memory at {at:#x}: {reply}"))?);
        }
        Ok(bytes)
    }

    /// Writes physical memory, or device registers.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.expect_ok(&format!("M{address:x},{:x}:{digits}", bytes.len()))
    }

    /// Reads the general registers: x0 to x30, SP, PC, and PSTATE in CPSR's layout.
    pub fn general(&mut self) -> Result<[u64; 34]> {
        let reply = self.ask("g")?;
        let bytes = from_hex(&reply)
            .filter(|bytes| bytes.len() >= GENERAL)
            .with_context(|| format!("registers: {reply}"))?;
        let mut registers = [0; 34];
        for (register, bytes) in registers.iter_mut().zip(bytes[..GENERAL].chunks(8)) {
            *register = little_endian(bytes).unwrap_or_default();
        }
        Ok(registers)
    }

    /// Writes the general registers.
    pub fn set_general(&mut self, registers: &[u64; 34]) -> Result<()> {
        let bytes = registers.iter().flat_map(|register| register.to_le_bytes());
        let digits: String = bytes.take(GENERAL).map(|byte| format!("{byte:02x}")).collect();
        self.expect_ok(&format!("G{digits}"))
    }

    /// Executes one instruction.
    pub fn step(&mut self) -> Result<()> {
        self.until_stopped("s")
    }

    /// Runs until the instruction at `address` is next.
    pub fn run_to(&mut self, address: u64) -> Result<()> {
        self.stop_at(address)?;
        self.go()?;
        self.pass_by(address)?;
        let pc = self.register(&["pc"])?;
        ensure!(pc == Some(address), "the guest stopped at {pc:x?}, not at {address:#x}");
        Ok(())
    }

    /// Sets a breakpoint at `address`.
    pub fn stop_at(&mut self, address: u64) -> Result<()> {
        self.expect_ok(&format!("Z1,{address:x},4"))
    }

    /// Removes the breakpoint at `address`.
    pub fn pass_by(&mut self, address: u64) -> Result<()> {
        self.expect_ok(&format!("z1,{address:x},4"))
    }

    /// Runs until the guest stops.
    pub fn go(&mut self) -> Result<()> {
        // At a breakpoint QEMU would stop again at once. Single-step first: breakpoints do not stop
        // a step.
        self.step()?;
        self.until_stopped("c")
    }

    /// Disconnects; the guest continues.
    pub fn detach(mut self) -> Result<()> {
        self.expect_ok("D")
    }

    fn until_stopped(&mut self, command: &str) -> Result<()> {
        self.stream.set_read_timeout(Some(UNTIL_STOPPED))?;
        let stopped =
            self.exchange(command, |reply| reply.starts_with(['T', 'S', 'W', 'X'])).map(drop);
        self.stream.set_read_timeout(Some(PATIENCE))?;
        stopped
    }

    fn document(&mut self, name: &str) -> Result<String> {
        let mut document = String::new();
        loop {
            let reply =
                self.ask(&format!("qXfer:features:read:{name}:{:x},800", document.len()))?;
            match reply.split_at_checked(1) {
                Some(("m", part)) if !part.is_empty() => document.push_str(part),
                Some(("l", part)) => return Ok(document + part),
                _ => bail!("the gdb stub has no {name}: {reply}"),
            }
        }
    }

    fn expect_ok(&mut self, question: &str) -> Result<()> {
        let reply = self.ask(question)?;
        ensure!(reply == "OK", "{question}: {reply}");
        Ok(())
    }

    fn ask(&mut self, question: &str) -> Result<String> {
        // Skip unsolicited stop replies: connecting stops the machine.
        self.exchange(question, |reply| !reply.starts_with(['T', 'S']))
    }

    /// Sends a packet and returns the first reply that is an answer.
    fn exchange(&mut self, question: &str, is_answer: fn(&str) -> bool) -> Result<String> {
        let packet = encode(question);
        self.stream.write_all(&packet).with_context(|| format!("gdb packet {question}"))?;
        let mut retries = RETRIES;
        loop {
            let event = decode(&mut self.received);
            if matches!(event, Some(Event::Damaged | Event::Again)) {
                retries = retries
                    .checked_sub(1)
                    .with_context(|| format!("gdb packet {question}: the line is bad"))?;
            }
            match event {
                Some(Event::Packet(reply)) => {
                    self.stream.write_all(b"+")?;
                    if is_answer(&reply) {
                        return Ok(reply);
                    }
                }
                Some(Event::Damaged) => self.stream.write_all(b"-")?,
                Some(Event::Again) => self.stream.write_all(&packet)?,
                None => {
                    let mut bytes = [0; 4096];
                    let length = self
                        .stream
                        .read(&mut bytes)
                        .with_context(|| format!("gdb packet {question}: no answer"))?;
                    ensure!(length > 0, "gdb packet {question}: the stub hung up");
                    self.received.extend_from_slice(&bytes[..length]);
                }
            }
        }
    }
}

/// The event at the front of the received bytes.
#[derive(Debug, Eq, PartialEq)]
enum Event {
    /// The payload of a packet with a correct checksum.
    Packet(String),
    /// A packet with a wrong checksum.
    Damaged,
    /// `-`: the stub requests the last packet again.
    Again,
}

fn encode(payload: &str) -> Vec<u8> {
    format!("${payload}#{:02x}", checksum(payload.as_bytes())).into_bytes()
}

fn checksum(payload: &[u8]) -> u8 {
    payload.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

/// Takes the first event off `received`; `None` if it is incomplete.
///
/// Drops acknowledgements and noise. Does not decode run-length encoding, because QEMU does not use
/// it.
fn decode(received: &mut Vec<u8>) -> Option<Event> {
    let start =
        received.iter().position(|byte| matches!(byte, b'$' | b'-')).unwrap_or(received.len());
    received.drain(..start);
    if received.first() == Some(&b'-') {
        received.remove(0);
        return Some(Event::Again);
    }
    let end = received.iter().position(|&byte| byte == b'#')?;
    if received.len() < end + 3 {
        return None;
    }
    let packet: Vec<u8> = received.drain(..end + 3).collect();
    let payload = &packet[1..end];
    let sum =
        str::from_utf8(&packet[end + 1..]).ok().and_then(|sum| u8::from_str_radix(sum, 16).ok());
    if sum != Some(checksum(payload)) {
        return Some(Event::Damaged);
    }
    // `}` escapes a special byte, which follows with bit 5 inverted.
    let mut bytes = payload.iter();
    let mut text = Vec::with_capacity(payload.len());
    while let Some(&byte) = bytes.next() {
        text.push(if byte == b'}' {
            bytes.next().copied().unwrap_or_default() ^ 0x20
        } else {
            byte
        });
    }
    Some(Event::Packet(String::from_utf8_lossy(&text).into_owned()))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    // An error is `E14`: an odd number of characters, unlike hexadecimal bytes.
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        u8::from_str_radix(str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?, 16).ok()
    };
    pairs.map(byte).collect::<Option<Vec<_>>>().filter(|bytes| !bytes.is_empty())
}

fn little_endian(bytes: &[u8]) -> Option<u64> {
    (bytes.len() <= 8)
        .then(|| bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// Returns the values of `attribute` in each tag `name` of an XML document, in order.
///
/// It scans the text and does not parse XML.
fn attributes<'a>(
    document: &'a str,
    name: &'a str,
    attribute: &'a str,
) -> impl Iterator<Item = &'a str> {
    tags(document, name).filter_map(move |tag| value(tag, attribute))
}

fn tags<'a>(document: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let tags =
        document.split('<').skip(1).filter_map(|rest| rest.split_once('>')).map(|(tag, _)| tag);
    tags.filter_map(move |tag| {
        tag.strip_prefix(name).filter(|rest| rest.starts_with(char::is_whitespace))
    })
}

fn value<'a>(tag: &'a str, attribute: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!(" {attribute}=\""))?;
    Some(rest.split_once('"')?.0)
}

/// Returns the number of each register: its `regnum`, or one more than the previous register's.
fn numbers(features: &[String]) -> HashMap<String, usize> {
    let mut next = 0;
    let mut numbers = HashMap::new();
    for tag in features.iter().flat_map(|feature| tags(feature, "reg")) {
        let number = value(tag, "regnum").and_then(|number| number.parse().ok()).unwrap_or(next);
        next = number + 1;
        if let Some(name) = value(tag, "name") {
            numbers.insert(name.to_owned(), number);
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_carries_the_sum_of_its_bytes() {
        assert_eq!(encode("qSupported"), b"$qSupported#37");
        assert_eq!(encode("OK"), b"$OK#9a");
    }

    #[test]
    fn packets_come_off_the_line_one_by_one() {
        let mut received = b"+$T02thread:01;#04$OK#9".to_vec();
        assert_eq!(decode(&mut received), Some(Event::Packet("T02thread:01;".into())));
        assert_eq!(decode(&mut received), None);
        received.extend_from_slice(b"a-");
        assert_eq!(decode(&mut received), Some(Event::Packet("OK".into())));
        assert_eq!(decode(&mut received), Some(Event::Again));
        assert!(received.is_empty());
    }

    #[test]
    fn a_wrong_sum_is_damage_and_an_escape_is_undone() {
        assert_eq!(decode(&mut b"$OK#9b".to_vec()), Some(Event::Damaged));
        let sum = checksum(b"l}\x03x");
        let mut received = [b"$l}\x03x#".as_slice(), format!("{sum:02x}").as_bytes()].concat();
        assert_eq!(decode(&mut received), Some(Event::Packet("l#x".into())));
    }

    #[test]
    fn bytes_are_little_endian_and_errors_are_none() {
        assert_eq!(
            from_hex("2820204000000000").as_deref().and_then(little_endian),
            Some(0x4020_2028)
        );
        assert_eq!(from_hex("c9030040").as_deref().and_then(little_endian), Some(0x4000_03c9));
        assert_eq!(from_hex("E14"), None);
        assert_eq!(from_hex(""), None);
        assert_eq!(little_endian(&[0; 16]), None);
    }

    #[test]
    fn registers_are_numbered_on_from_the_last_regnum() {
        let target = "<target><architecture>aarch64</architecture><xi:include href=\"core.xml\"/>\
                      <xi:include href=\"sys.xml\"/></target>";
        assert_eq!(
            attributes(target, "xi:include", "href").collect::<Vec<_>>(),
            ["core.xml", "sys.xml"]
        );
        let core = "<feature name=\"core\">\n <reg name=\"x0\" bitsize=\"64\"/>\n <reg name=\"x1\"\
                    \n bitsize=\"64\"/></feature>";
        let system = "<regs x=\"1\"/><reg name=\"ESR_EL2\" bitsize=\"64\" regnum=\"149\" \
                      group=\"cp_regs\"/><reg name=\"VBAR\" bitsize=\"64\"/>";
        let numbers = numbers(&[core.into(), system.into()]);
        assert_eq!(
            [numbers["x0"], numbers["x1"], numbers["ESR_EL2"], numbers["VBAR"]],
            [0, 1, 149, 150]
        );
        assert_eq!(numbers.len(), 4);
    }
}
