//! Faults of the disk: flipped bits, read errors, a wrong size, slow or split reads.
//!
//! The disk's content or QEMU's options change before the guest starts. If every configuration
//! but the last is damaged, each generation that kexecs meets all of them.

use anyhow::{Result, bail, ensure};

use harness::{
    cmdline::Base,
    disk::payload,
    fit_edit::{edited, node, position, set},
    qemu::{self, DRIVE},
    request::Disk,
};
use protocol::fit::writer::{self as fit, SECTOR};

use super::{BATCH, Cases, End, Run, Way, batch};

/// The size of an Image's header. A flipped bit there may break another rule before the digest is
/// checked.
const HEADER: usize = 64;

/// Flips a bit in each payload but the last.
pub fn bits(run: &Run<'_>) -> Result<Cases> {
    let mut random = run.job.random(run.setting.seed);
    let mut disk = kernels(run, BATCH + 1);
    let bytes = run.setting.kernel.image.len() as u64;
    let mut places = Vec::new();
    for number in 0..BATCH {
        let at = random.below(bytes) as usize;
        let start = position(&disk, &name(number))?;
        disk[start + at] ^= 1 << random.below(8);
        places.push(at);
    }
    let mut request = run.request()?;
    request.disk = Disk::Bytes(disk.into());
    run.judged(&request, |way| {
        batch(way, &["bit on the disk"; BATCH], |at, words| {
            places[at] < HEADER
                || words.contains(&format!("\"{}\" is not what the FIT says: sha256 ", name(at)))
        })
    })
}

/// Flips a bit in the FIT's tree. Its effect is unknown, but the kernel must not boot anything that
/// was not written to the disk.
pub fn contents_bit(run: &Run<'_>) -> Result<Cases> {
    let mut random = run.job.random(run.setting.seed);
    let mut disk = kernels(run, 2);
    let bytes = u32::from_be_bytes(disk[4..8].try_into()?);
    disk[random.below(bytes.into()) as usize] ^= 1 << random.below(8);
    let mut request = run.request()?;
    request.disk = Disk::Bytes(disk.into());
    run.judged(&request, |way| match way {
        Way::Gone(refused) if refused.iter().all(Vec::is_empty) => {
            Ok(vec![("bit in the contents", End::Gone)])
        }
        Way::Gone(_) | Way::Refused(_) => Ok(vec![("bit in the contents", End::Refused)]),
        Way::Stopped(words) => bail!("the relocation code stopped: {words}"),
    })
}

/// Makes a sector of each payload but the last unreadable.
pub fn read_errors(run: &Run<'_>) -> Result<Cases> {
    let mut random = run.job.random(run.setting.seed);
    let disk = kernels(run, BATCH + 1);
    let sectors = run.setting.kernel.image.len().div_ceil(SECTOR) as u64;
    let bad: Vec<_> = (0..BATCH)
        .map(|number| Ok(position(&disk, &name(number))? / SECTOR + random.below(sectors) as usize))
        .collect::<Result<_>>()?;
    let mut request = run.request()?;
    request.drive = qemu::failing_drive(bad);
    request.disk = Disk::Bytes(disk.into());
    run.judged(&request, |way| {
        batch(way, &["read error"; BATCH], |_, words| {
            words.contains("the disk fails to read block ")
        })
    })
}

/// Truncates the disk within the default configuration's payload, which is the last, or within the
/// tree.
pub fn short(run: &Run<'_>) -> Result<Cases> {
    let mut random = run.job.random(run.setting.seed);
    let disk =
        edited(&kernels(run, 2), |tree| set(node(tree, "/configurations")?, "default", "conf-2"))?;
    let start = position(&disk, &name(1))?;
    let tree = u32::from_be_bytes(disk[4..8].try_into()?) as usize;
    // One run in eight truncates the tree. Without its tree a disk is useless, wherever it ends.
    let in_tree = random.below(8) == 0;
    let range = if in_tree { 0..tree } else { start..disk.len() - SECTOR };
    let end = range.start + random.below(range.len() as u64) as usize;
    // Truncate to whole sectors: QEMU would round up, and the rest would read as zero.
    let kept = end / SECTOR * SECTOR;
    let mut request = run.request()?;
    request.disk = Disk::Bytes(disk[..kept].to_vec().into());
    run.judged(&request, |way| {
        let (refused, right): (Vec<_>, &[&str]) = match way {
            Way::Refused(refused) if in_tree => {
                (refused, &["the FIT's tree has ", "the disk has 0 bytes", "the disk has "])
            }
            Way::Gone(mut refused) if !in_tree => {
                (refused.swap_remove(0), &["the disk ends at byte "])
            }
            way => bail!("the disk ended at byte {kept}, but the run is {way}"),
        };
        let [words] = refused.as_slice() else {
            bail!("there should be one refusal, but there are {refused:?}")
        };
        ensure!(right.iter().any(|right| words.contains(right)), "it was refused with \"{words}\"");
        Ok(vec![("short disk", End::Refused)])
    })
}

/// Makes QEMU split the guest's reads into pieces.
pub fn split_reads(run: &Run<'_>) -> Result<Cases> {
    let mut random = run.job.random(run.setting.seed);
    let most = SECTOR << random.below(8);
    let mut request = run.request()?;
    request.drive = format!("{},file.max-transfer={most}", qemu::failing_drive([]));
    run.judged(&request, |way| unharmed(way, "reads in pieces"))
}

/// Limits the disk's requests or bytes a second.
pub fn slow(run: &Run<'_>) -> Result<Cases> {
    let mut random = run.job.random(run.setting.seed);
    let limit = match random.below(2) {
        0 => format!("iops-total={}", 20 + random.below(200)),
        _ => format!("bps-total={}", 200_000 + random.below(2_000_000)),
    };
    let mut request = run.request()?;
    request.drive = format!("{DRIVE},throttling.{limit}");
    run.judged(&request, |way| unharmed(way, "slow disk"))
}

fn unharmed(way: Way, name: &'static str) -> Result<Vec<(&'static str, End)>> {
    match way {
        Way::Gone(refused) if refused.iter().all(Vec::is_empty) => Ok(vec![(name, End::Gone)]),
        way => bail!("nothing was wrong with the disk, but the run is {way}"),
    }
}

fn name(number: usize) -> String {
    format!("kernel-{number}")
}

/// A disk with `count` kernels, each in a configuration of its own.
pub fn kernels(run: &Run<'_>, count: usize) -> Vec<u8> {
    let load = (run.job.cell.base == Base::Load).then_some(harness::disk::LOAD);
    let image = &run.setting.kernel.image;
    let kernels: Vec<_> =
        (0..count).map(|number| payload(&name(number), image.clone(), load)).collect();
    fit::write(&kernels)
}
