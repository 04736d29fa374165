//! QEMU's command line.
//!
//! Used for every run, for `doctor`'s trials and for the line that `image` prints. The arguments
//! come in this order: machine, CPU, memory, common flags, console, disk, kernel, the rest.

use std::path::Path;

use crate::config::{Config, Flag, Gic, Machine, Virtio};

/// The emulator's usual name; [`crate::parts::qemu`] is the one to start.
pub const QEMU: &str = "qemu-system-aarch64";

/// The default -drive of a disk; `{disk}` stands for its path.
pub const DRIVE: &str = "if=none,id=d0,format=raw,file={disk},readonly=on";

/// The -drive of a disk that fails to read these sectors.
pub fn failing_drive(sectors: impl IntoIterator<Item = usize>) -> String {
    let mut drive =
        "if=none,id=d0,driver=raw,readonly=on,file.driver=blkdebug,file.image.driver=file,\
         file.image.filename={disk}"
            .to_owned();
    for (number, sector) in sectors.into_iter().enumerate() {
        let error = format!("file.inject-error.{number}");
        drive += &format!(",{error}.event=read_aio,{error}.errno=5,{error}.sector={sector}");
    }
    drive
}

/// A machine with the choices of one run.
#[derive(Clone, Debug)]
pub struct Choice<'a> {
    /// The machine's table in qemu.toml.
    pub machine: &'a Machine,
    /// Overrides the machine's own.
    pub cpu: Option<&'a str>,
    /// Overrides the machine's own.
    pub memory: Option<&'a str>,
    /// Overrides the machine's own.
    pub cpus: Option<u32>,
    /// Overrides the machine's own.
    pub gic: Option<Gic>,
    /// Overrides the machine's own.
    pub virtio: Option<Virtio>,
    /// Lets the guest call the host by semihosting; for our own kernel only.
    pub semihosting: bool,
}

impl Choice<'_> {
    /// The machine without any override.
    pub fn plain(machine: &Machine) -> Choice<'_> {
        Choice {
            machine,
            cpu: None,
            memory: None,
            cpus: None,
            gic: None,
            virtio: None,
            semihosting: false,
        }
    }

    /// The way in which its virtio devices are attached.
    pub fn virtio(&self) -> Virtio {
        self.virtio.unwrap_or(self.machine.virtio)
    }

    /// The arguments that describe the machine, without console, disk and kernel, and the user's.
    pub fn words(&self, config: &Config) -> Vec<String> {
        giving_way(self.own_words(config), &config.args)
    }

    /// The arguments that describe the machine, without the user's.
    pub fn own_words(&self, config: &Config) -> Vec<String> {
        let Choice { machine, .. } = self;
        let mut words = spread(&machine.flags);
        if !machine.board {
            words.extend(spread(match self.gic.unwrap_or(machine.gic) {
                Gic::V2 => &config.gic.v2,
                Gic::V3 => &config.gic.v3,
            }));
        }
        words.extend(["-cpu", self.cpu.unwrap_or(&machine.cpu)].map(str::to_owned));
        words.extend(["-m", self.memory.unwrap_or(&machine.memory)].map(str::to_owned));
        if !machine.board {
            let cpus = self.cpus.unwrap_or(machine.smp).to_string();
            words.extend(["-smp", &cpus].map(str::to_owned));
        }
        words.extend(spread(&config.common.flags));
        words.extend(spread(match self.virtio() {
            Virtio::Modern => &config.virtio.modern,
            Virtio::Legacy => &config.virtio.legacy,
            Virtio::Pci => &config.virtio.pci,
        }));
        if self.semihosting {
            words.extend(spread(&config.common.semihosting));
        }
        words
    }
}

/// QEMU's options of which a machine has one. QEMU takes the first accelerator that works, and the
/// last of the others.
const SINGLE: [&str; 9] =
    ["-accel", "-cpu", "-m", "-smp", "-bios", "-dtb", "-kernel", "-initrd", "-append"];

/// Appends `theirs`, and removes from `ours` the single options that they contain.
pub fn giving_way(ours: Vec<String>, theirs: &[String]) -> Vec<String> {
    let sets_accel = theirs.iter().any(|word| word.contains("accel="));
    let replaced = |word: &str| {
        SINGLE.contains(&word)
            && (theirs.iter().any(|theirs| theirs == word) || word == "-accel" && sets_accel)
    };
    let mut words = Vec::new();
    let mut ours = ours.into_iter();
    while let Some(word) = ours.next() {
        if replaced(&word) {
            // Its value.
            ours.next();
        } else {
            words.push(word);
        }
    }
    words.extend(theirs.iter().cloned());
    words
}

fn spread(flags: &[Flag]) -> Vec<String> {
    flags.iter().flat_map(Flag::words).collect()
}

/// The arguments for the disk, opened as `drive` says.
pub fn disk(path: &Path, drive: &str, virtio: Virtio) -> Vec<String> {
    let drive = drive.replace("{disk}", &value(path));
    let device = virtio.device("blk") + ",drive=d0";
    ["-drive", &drive, "-device", &device].map(str::to_owned).into()
}

/// The arguments for a network device that receives the datagrams sent to `socket`. QEMU also
/// requires a destination; the guest never sends.
pub fn network(socket: &Path, virtio: Virtio) -> Vec<String> {
    let ends =
        ["local", "remote"].map(|end| format!("{end}.type=unix,{end}.path={}", value(socket)));
    let netdev = format!("dgram,id=n0,{}", ends.join(","));
    // The default boot ROM is a file that Debian packages separately.
    let rom = if virtio == Virtio::Pci { ",romfile=" } else { "" };
    let device = format!("{},netdev=n0{rom}", virtio.device("net"));
    ["-netdev", &netdev, "-device", &device].map(str::to_owned).into()
}

/// The arguments that connect the serial port to QEMU's standard input and output.
pub fn console() -> Vec<String> {
    // signal=off: xtask handles Ctrl-C.
    ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
        .map(str::to_owned)
        .into()
}

/// The arguments for a QMP monitor and a gdb stub, each on a socket.
pub fn questions(qmp: &Path, gdb: &Path) -> Vec<String> {
    let socket =
        |id: &str, path: &Path| format!("socket,id={id},path={},server=on,wait=off", value(path));
    let mut words: Vec<String> =
        ["-chardev", &socket("qmp0", qmp), "-mon", "chardev=qmp0,mode=control"]
            .map(str::to_owned)
            .into();
    words.extend(["-chardev", &socket("gdb0", gdb), "-gdb", "chardev:gdb0"].map(str::to_owned));
    words
}

/// Escapes a path for use as a value in QEMU's comma-separated lists.
fn value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Quotes `words` as a line for a POSIX shell.
pub fn shell_line<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> String {
    let quoted: Vec<_> = words.into_iter().map(|word| shell_word(word.as_ref())).collect();
    quoted.join(" ")
}

/// Quotes one word for a POSIX shell.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_machine_is_its_table_and_the_common_flags() {
        let config = Config::read(&crate::paths::root()).unwrap();
        let line = shell_line(Choice::plain(config.machine("nvhe").unwrap()).words(&config));
        assert_eq!(
            line,
            "-machine virt,virtualization=on -machine gic-version=3 -cpu cortex-a72 -m 512M -smp 1 \
             -nic none -display none -monitor none -no-reboot -accel tcg,tb-size=32 \
             -global virtio-mmio.force-legacy=false -device virtio-rng-device"
        );
    }

    #[test]
    fn a_run_may_choose_otherwise() {
        let config = Config::read(&crate::paths::root()).unwrap();
        let machine = config.machine("el1").unwrap();
        let choice = Choice {
            cpu: Some("max"),
            memory: Some("300M"),
            cpus: Some(4),
            gic: Some(Gic::V2),
            virtio: Some(Virtio::Legacy),
            semihosting: true,
            ..Choice::plain(machine)
        };
        let words = choice.words(&config);
        let line = shell_line(&words);
        assert!(line.contains("-machine gic-version=2 -cpu max -m 300M -smp 4 "), "{line}");
        assert!(!line.contains("force-legacy"), "{line}");
        assert!(!line.contains("virtualization=on"), "{line}");
        assert!(line.ends_with("-semihosting-config enable=on,target=native"), "{line}");
        assert_eq!(words.iter().filter(|word| *word == "-cpu").count(), 1);
    }

    #[test]
    fn without_leave_the_guest_cannot_call_the_host() {
        let config = Config::read(&crate::paths::root()).unwrap();
        for machine in config.machines.values() {
            assert!(!shell_line(Choice::plain(machine).words(&config)).contains("semihosting"));
        }
    }

    #[test]
    fn a_disk_may_be_opened_in_another_way_and_have_a_comma_in_its_name() {
        let words = disk(Path::new("/a,b/disk.itb"), DRIVE, Virtio::Modern);
        assert_eq!(words[1], "if=none,id=d0,format=raw,file=/a,,b/disk.itb,readonly=on");
        let words = disk(Path::new("d"), "id=d0,file=blkdebug::{disk}", Virtio::Pci);
        assert_eq!(words[1..], ["id=d0,file=blkdebug::d", "-device", "virtio-blk-pci,drive=d0"]);
    }

    #[test]
    fn a_network_device_on_pci_has_no_rom() {
        let words = network(Path::new("/tmp/n"), Virtio::Pci);
        let netdev =
            "dgram,id=n0,local.type=unix,local.path=/tmp/n,remote.type=unix,remote.path=/tmp/n";
        assert_eq!(words, ["-netdev", netdev, "-device", "virtio-net-pci,netdev=n0,romfile="]);
        assert_eq!(network(Path::new("/tmp/n"), Virtio::Legacy)[3], "virtio-net-device,netdev=n0");
    }

    #[test]
    fn what_the_user_contradicts_gives_way() {
        let given = |ours: &str, theirs: &str| {
            let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
            giving_way(words(ours), &words(theirs)).join(" ")
        };
        let ours = "-machine virt -cpu max -m 1G -accel tcg,tb-size=32 -device a";
        assert_eq!(
            given(ours, "-accel kvm -cpu host"),
            "-machine virt -m 1G -device a -accel kvm -cpu host"
        );
        assert_eq!(
            given(ours, "-machine virt,accel=hvf"),
            "-machine virt -cpu max -m 1G -device a -machine virt,accel=hvf"
        );
        assert_eq!(given(ours, "-device b"), format!("{ours} -device b"));
    }

    #[test]
    fn a_shell_gets_each_word_back() {
        let words = ["plain-1,x=/y", "two words", "", "it's", "$HOME", "a*b"];
        let line = shell_line(words);
        let out = std::process::Command::new("sh")
            .args(["-c", &format!("printf '%s\\n' {line}")])
            .output()
            .unwrap();
        let back: Vec<_> = std::str::from_utf8(&out.stdout).unwrap().lines().collect();
        assert_eq!(back, words);
    }
}
