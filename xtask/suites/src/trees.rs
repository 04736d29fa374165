//! Runs on `virt` with a device tree that describes it as another VMM would.
//!
//! - The trees have the shape of Firecracker's, crosvm's and kvmtool's: RAM from 2 GiB on, their
//!   names and cells, PSCI by HVC, one PCI bus or two, only the virtio-mmio slots in use.
//! - QEMU's devices keep their addresses, and its UART is a PL011. fdt's tests read whole trees.
//! - A debugger puts Image and tree where that VMM puts them: with `-kernel` or `-dtb`, QEMU would
//!   describe RAM itself.

use anyhow::{Result, ensure};
use dtoolkit::model::{DeviceTree, DeviceTreeNode};

use harness::{
    cmdline::{Base, Cmdline},
    config::{Gic, Virtio},
    fit_edit::set,
    invariants::{Modes, check},
    postmortem::Gdb,
    transcript,
    tree_edit::child,
    verdict::Verdict,
};

use super::{
    case::{Case, Trial, case, with_cpus},
    debugger::debugged,
};

/// A VMM.
#[derive(Clone, Copy)]
struct Vmm {
    name: &'static str,
    memory: &'static str,
    /// The start of RAM in the tree.
    ram: u64,
    /// The address of the Image.
    image: u64,
    /// The address of the tree.
    tree: u64,
    /// More RAM in the tree, which registers of devices cover: start and size.
    covered: Option<(u64, u64)>,
    /// `#address-cells` of /cpus.
    cpu_cells: usize,
    psci: &'static [&'static str],
    uart: &'static str,
    has_stdout_path: bool,
    /// The number of PCI buses. The disk is on the first if there is any, else in a virtio-mmio
    /// slot.
    buses: u32,
}

/// The end of the RAM that `-m 2G` gives.
const END: u64 = 0xc000_0000;

const VMMS: [Vmm; 4] = [
    Vmm {
        name: "firecracker",
        memory: "memory@ram",
        ram: 0x8020_0000,
        image: 0x8020_0000,
        tree: END - (2 << 20),
        covered: None,
        cpu_cells: 2,
        psci: &["arm,psci-0.2"],
        uart: "uart@9000000",
        has_stdout_path: false,
        buses: 0,
    },
    Vmm {
        name: "crosvm",
        memory: "memory",
        ram: 0x8000_0000,
        image: 0x8000_0000,
        tree: END - 0x21_0000,
        covered: None,
        cpu_cells: 1,
        psci: &["arm,psci-1.0", "arm,psci-0.2"],
        uart: "U6_16550A@9000000",
        has_stdout_path: true,
        buses: 1,
    },
    KVMTOOL,
    // As QEMU describes xlnx-zcu102 with more than 2 GiB. Redistributors and UART fill the range.
    Vmm { name: "registers-in-ram", covered: Some((0x080a_0000, 0xf6_1000)), ..KVMTOOL },
];

const KVMTOOL: Vmm = Vmm {
    name: "kvmtool",
    memory: "memory",
    ram: 0x8000_0000,
    image: 0x8000_0000,
    tree: 0x8fe0_0000,
    covered: None,
    cpu_cells: 1,
    psci: &["arm,psci-0.2", "arm,psci"],
    uart: "U6_16550A@9000000",
    has_stdout_path: true,
    buses: 2,
};

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    let runs = |vmm: Vmm| {
        case(format!("trees/{}", vmm.name), move |trial: &mut Trial<'_>| runs(trial, &vmm))
    };
    VMMS.into_iter().map(runs).collect()
}

/// Runs eight generations, all in the RAM that the tree names.
fn runs(trial: &mut Trial<'_>, vmm: &Vmm) -> Result<()> {
    let mut cmdline = Cmdline { generations: 8, base: Base::Random, ..trial.cmdline() };
    if !vmm.has_stdout_path {
        cmdline.append.push("earlycon=pl011,0x9000000".to_owned());
    }
    let mut request = trial.request("el1", &cmdline)?;
    request.memory = Some("2G".to_owned());
    with_cpus(&mut request, 2, Gic::V3);
    if vmm.buses > 0 {
        request.virtio = Some(Virtio::Pci);
    }
    let (image, bootargs) = (request.kernel.image.clone(), request.bootargs.clone());
    let outcome = debugged(trial, request, |mut gdb| {
        let tree = vmm.describe(&bootargs, &slots(&mut gdb)?)?.to_dtb();
        put(&mut gdb, vmm.image, &image)?;
        put(&mut gdb, vmm.tree, &tree)?;
        let mut registers = gdb.general()?;
        registers[..4].copy_from_slice(&[vmm.tree, 0, 0, 0]);
        registers[PC] = vmm.image;
        gdb.set_general(&registers)?;
        gdb.detach()
    })?;
    ensure!(outcome.verdict == Verdict::Success, "{}", outcome.verdict.words());
    let logs = transcript::logs(&outcome.console)?;
    check(&logs, &cmdline, Modes::All("el1"))?;
    for gen_log in &logs {
        let is_in_ram = |at: u64| (vmm.ram..END).contains(&at);
        ensure!(
            is_in_ram(gen_log.base) && is_in_ram(gen_log.control) && gen_log.cpus == (2, 2),
            "generation {} is at {:#x}, its control pages at {:#x}, with {:?} CPUs",
            gen_log.number,
            gen_log.base,
            gen_log.control,
            gen_log.cpus
        );
    }
    Ok(())
}

/// The index of PC in [`Gdb::general`].
const PC: usize = 32;

fn put(gdb: &mut Gdb, start: u64, bytes: &[u8]) -> Result<()> {
    const PIECE: usize = 1024;
    (start..)
        .step_by(PIECE)
        .zip(bytes.chunks(PIECE))
        .try_for_each(|(at, piece)| gdb.write(at, piece))
}

/// Returns the virtio-mmio slots that hold a device.
fn slots(gdb: &mut Gdb) -> Result<Vec<u64>> {
    const DEVICE_ID: u64 = 0x8;
    let mut used = Vec::new();
    for slot in (0..32).map(|slot| 0x0a00_0000 + slot * 0x200) {
        if gdb.memory(slot + DEVICE_ID, 4)?[0] > 0 {
            used.push(slot);
        }
    }
    Ok(used)
}

fn quads(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// Makes a device with registers.
fn device(name: &str, compatible: &[&str], reg: &[u64]) -> Result<DeviceTreeNode> {
    let mut device = child(name)?;
    set(&mut device, "compatible", compatible)?;
    set(&mut device, "reg", quads(reg))?;
    Ok(device)
}

impl Vmm {
    /// Makes the tree.
    fn describe(&self, bootargs: &str, slots: &[u64]) -> Result<DeviceTree> {
        const GIC: u32 = 1;
        let mut tree = DeviceTree::new();
        let root = &mut tree.root;
        set(root, "compatible", "linux,dummy-virt")?;
        set(root, "#address-cells", 2_u32)?;
        set(root, "#size-cells", 2_u32)?;
        set(root, "interrupt-parent", GIC)?;

        let mut ram = vec![self.ram, END - self.ram];
        ram.extend(self.covered.into_iter().flat_map(|(start, bytes)| [start, bytes]));
        let mut memory = child(self.memory)?;
        set(&mut memory, "device_type", "memory")?;
        set(&mut memory, "reg", quads(&ram))?;
        let mut chosen = child("chosen")?;
        set(&mut chosen, "bootargs", bootargs)?;
        if self.has_stdout_path {
            set(&mut chosen, "stdout-path", format!("/{}", self.uart))?;
            set(&mut chosen, "linux,pci-probe-only", 1_u32)?;
        }
        let mut cpus = child("cpus")?;
        set(&mut cpus, "#address-cells", self.cpu_cells as u32)?;
        set(&mut cpus, "#size-cells", 0_u32)?;
        for nth in 0..2_u32 {
            let mut cpu = child(&format!("cpu@{nth:x}"))?;
            set(&mut cpu, "device_type", "cpu")?;
            set(&mut cpu, "compatible", "arm,arm-v8")?;
            set(&mut cpu, "enable-method", "psci")?;
            set(&mut cpu, "reg", [0, nth][2 - self.cpu_cells..].to_vec())?;
            cpus.add_child(cpu);
        }
        let mut psci = child("psci")?;
        set(&mut psci, "compatible", self.psci)?;
        set(&mut psci, "method", "hvc")?;
        if self.psci.contains(&"arm,psci") {
            set(&mut psci, "cpu_on", 0xc400_0003_u32)?;
            set(&mut psci, "cpu_off", 0x8400_0002_u32)?;
        }
        let mut timer = child("timer")?;
        set(&mut timer, "compatible", "arm,armv8-timer")?;
        set(&mut timer, "interrupts", vec![1_u32, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4])?;
        let reg = [0x0800_0000, 0x1_0000, 0x080a_0000, 0xf6_0000];
        let mut intc = device("intc", &["arm,gic-v3"], &reg)?;
        set(&mut intc, "phandle", GIC)?;
        set(&mut intc, "#interrupt-cells", 3_u32)?;
        set(&mut intc, "interrupt-controller", [0_u8; 0])?;
        let uart = device(self.uart, &["arm,pl011", "arm,primecell"], &[0x0900_0000, 0x1000])?;
        for node in [memory, chosen, cpus, psci, timer, intc, uart] {
            root.add_child(node);
        }

        for slot in slots {
            let name = format!("virtio_mmio@{slot:x}");
            root.add_child(device(&name, &["virtio,mmio"], &[*slot, 0x200])?);
        }
        if self.buses > 0 {
            let reg = [0x40_1000_0000, u64::from(self.buses) << 20];
            let mut pci = device("pci", &["pci-host-ecam-generic"], &reg)?;
            set(&mut pci, "device_type", "pci")?;
            set(&mut pci, "#address-cells", 3_u32)?;
            set(&mut pci, "#size-cells", 2_u32)?;
            set(&mut pci, "bus-range", vec![0, self.buses - 1])?;
            let (start, bytes) = (0x1000_0000_u32, 0x2eff_0000_u32);
            set(&mut pci, "ranges", vec![0x0200_0000, 0, start, 0, start, 0, bytes])?;
            root.add_child(pci);
        }
        Ok(tree)
    }
}
