//! Edits of the device tree that QEMU makes for a machine.
//!
//! Tests and injected faults use it for a reservation, or for a tree that is wrong. QEMU writes its
//! tree to a file (`dumpdtb`) and reads the edited one back (`-dtb`). It then adds memory, bootargs
//! and PSCI to the edited tree by itself.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use dtoolkit::{
    fdt::Fdt,
    model::{DeviceTree, DeviceTreeNode},
};

use crate::{parts, processes::Guarded, qemu::Choice, request::Request};

use crate::fit_edit::set;

/// The time limit for QEMU to write its tree.
const PATIENCE: Duration = Duration::from_secs(30);

/// Replaces the device tree of the request's machine by an edited one.
pub fn edit_tree(
    request: &mut Request,
    edit: impl FnOnce(&mut DeviceTree) -> Result<()>,
) -> Result<()> {
    let file = file_for(request)?;
    let mut tree = dumped(request)?;
    edit(&mut tree)?;
    std::fs::write(&file, tree.to_dtb())
        .with_context(|| format!("cannot write {}", file.display()))?;
    request.args.extend(["-dtb".to_owned(), file.display().to_string()]);
    Ok(())
}

/// The path of the tree, in a folder next to those of the runs, so that a run's command finds it
/// again.
fn file_for(request: &Request) -> Result<PathBuf> {
    let folder = crate::paths::target_dir().join("ouroboros").join("trees");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    // The seed is part of the name, because runs of one name may be made at the same time.
    Ok(folder.join(format!("{}-{:016x}.dtb", request.name, request.seed)))
}

/// The device tree that QEMU makes for the request's machine.
pub fn dumped(request: &Request) -> Result<DeviceTree> {
    let file = file_for(request)?;
    let choice = Choice {
        cpu: request.cpu.as_deref(),
        memory: request.memory.as_deref(),
        cpus: request.cpus,
        gic: request.gic,
        virtio: request.virtio,
        ..Choice::plain(&request.machine)
    };
    let dump = format!("dumpdtb={}", file.display().to_string().replace(',', ",,"));
    let mut command = Command::new(parts::qemu());
    command.args(choice.words(&request.config)).args(["-machine", &dump]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = Guarded::spawn(&mut command)?.wait(PATIENCE)?;
    ensure!(
        status.is_some_and(|status| status.success()),
        "QEMU did not write its device tree: {command:?}"
    );
    let bytes = std::fs::read(&file).with_context(|| {
        format!("cannot read {}, which QEMU should have written", file.display())
    })?;
    Ok(DeviceTree::from_fdt(&Fdt::new(&bytes).map_err(|error| anyhow!("QEMU's tree: {error}"))?))
}

/// Reserves `size` bytes from `start` on in /reserved-memory, under the name `name@…`.
pub fn reserve(
    tree: &mut DeviceTree,
    name: &str,
    start: u64,
    size: u64,
    no_map: bool,
) -> Result<()> {
    const PARENT: &str = "reserved-memory";
    if tree.find_node_mut("/reserved-memory").is_none() {
        let mut parent = child(PARENT)?;
        set(&mut parent, "#address-cells", 2_u32)?;
        set(&mut parent, "#size-cells", 2_u32)?;
        set(&mut parent, "ranges", [0_u8; 0])?;
        tree.root.add_child(parent);
    }
    let mut reservation = child(&format!("{name}@{start:x}"))?;
    let reg: Vec<u32> =
        [start, size].iter().flat_map(|value| [(value >> 32) as u32, *value as u32]).collect();
    set(&mut reservation, "reg", reg)?;
    if no_map {
        set(&mut reservation, "no-map", [0_u8; 0])?;
    }
    tree.root.child_mut(PARENT).context("just added")?.add_child(reservation);
    Ok(())
}

/// An empty node.
pub fn child(name: &str) -> Result<DeviceTreeNode> {
    DeviceTreeNode::new(name).map_err(|error| anyhow!("{name}: {error}"))
}
