//! Refusals of unusable disks and FITs, and of invalid parameters.

use anyhow::{Result, ensure};
use boot::marker;

use harness::{
    cmdline::Cmdline,
    disk::payload,
    fit_edit::{edited, node, position, set},
    kernel_build::Built,
    qemu,
    request::Disk,
    transcript,
    verdict::Verdict,
};
use protocol::fit::writer::{self as fit, Kind, Payload};

use super::{
    super::case::{Case, Trial, case},
    PLAIN, Refusal, alive, failed,
};

const TREE_DAMAGED: &[&str] = &["the FIT's tree is damaged: "];

#[rustfmt::skip]
pub(super) const REFUSALS: &[Refusal] = &[
    Refusal { name: "no-disk", alter: |request| { request.disk = Disk::None; Ok(()) },
              says: &["no disk", "is one that can be driven: attach one"], goes_on: false,
              ..PLAIN },
    Refusal { name: "empty-disk", disk: |_| Ok(Vec::new()),
              says: &["the disk has 0 bytes", "header alone 40"], goes_on: false, ..PLAIN },
    Refusal { name: "not-a-fit", disk: |_| Ok(vec![0x5a; 64 << 10]),
              says: &["does not start with a FIT", "0x5a5a5a5a"], goes_on: false, ..PLAIN },
    Refusal { name: "short-tree", disk: |kernel| Ok(two(kernel)[..512].to_vec()),
              says: &["the FIT's tree has", "the disk 512"], goes_on: false, ..PLAIN },
    Refusal { name: "short-disk", disk: short,
              says: &["/images/second has", "the disk ends at byte"], ..PLAIN },
    Refusal { name: "past-end", disk: |kernel| data_size(kernel, 0x7fff_ffff),
              says: &["/images/first has 2147483647 bytes", "the disk ends at byte"], ..PLAIN },
    Refusal { name: "no-data", disk: |kernel| data_size(kernel, 0),
              says: &["/images/first has data of 0 bytes"], ..PLAIN },
    Refusal { name: "over-the-tree", disk: over_tree,
              says: &["/images/first has its data at bytes 64..", "the tree takes"], ..PLAIN },
    Refusal { name: "no-kernel", disk: no_kernel,
              says: &["/configurations/conf-1 has no \"kernel\""], ..PLAIN },
    Refusal { name: "no-default", disk: no_default, says: &["/configurations has no \"default\""],
              goes_on: false, ..PLAIN },
    Refusal { name: "two-kernels", disk: two_kernels,
              says: &["/configurations/conf-1 names 2 kernels, and one can be entered"], ..PLAIN },
    Refusal { name: "unknown-hash", disk: unknown_hash,
              says: &["/images/first/hash-1 is a digest by \"crc16-ccitt\", which is not known",
                      "or order \"unverified\""],
              ..PLAIN },
    Refusal { name: "no-hash", disk: no_hash,
              says: &["/images/first has no digest", "or order \"unverified\""], ..PLAIN },
    Refusal { name: "short-hash", disk: |kernel| hash(kernel, "sha512", 32),
              says: &["/images/first/hash-1 has a digest of 32 bytes, and sha512 makes 64"],
              ..PLAIN },
    Refusal { name: "wrong-crc32", disk: |kernel| hash(kernel, "crc32", 4),
              says: &["\"first\" is not what the FIT says: crc32 ", "should be 00000000: "],
              ..PLAIN },
    Refusal { name: "wrong-md5", disk: |kernel| hash(kernel, "md5", 16),
              says: &["\"first\" is not what the FIT says: md5 ", "be 0000000000000000…: "],
              ..PLAIN },
    Refusal { name: "wrong-sha1", disk: |kernel| hash(kernel, "sha1", 20),
              says: &["\"first\" is not what the FIT says: sha1 ", "be 0000000000000000…: "],
              ..PLAIN },
    Refusal { name: "wrong-sha384", disk: |kernel| hash(kernel, "sha384", 48),
              says: &["\"first\" is not what the FIT says: sha384 ", "be 0000000000000000…: "],
              ..PLAIN },
    Refusal { name: "wrong-sha512", disk: |kernel| hash(kernel, "sha512", 64),
              says: &["\"first\" is not what the FIT says: sha512 ", "be 0000000000000000…: "],
              ..PLAIN },
    Refusal { name: "unverified-and-wrong", disk: |kernel| hash(kernel, "md5", 16),
              alter: |request| { request.bootargs += " unverified"; Ok(()) },
              says: &["\"first\" is not what the FIT says: md5 "], ..PLAIN },
    Refusal { name: "compressed", disk: compressed,
              says: &["/images/first is compressed with \"lzma\""], ..PLAIN },
    // The header is ten big-endian words. Word 3 is the offset of the strings, word 2 that of the
    // structure block, whose first word opens the root.
    Refusal { name: "tree-damaged-token", disk: |kernel| damaged(kernel, 2, 0, 9),
              says: TREE_DAMAGED, goes_on: false, ..PLAIN },
    Refusal { name: "tree-damaged-end", disk: |kernel| damaged(kernel, 3, -4, 2),
              says: TREE_DAMAGED, goes_on: false, ..PLAIN },
    Refusal { name: "tree-damaged-names", disk: |kernel| damaged(kernel, 2, 8 + 8, 0x7fff_ffff),
              says: TREE_DAMAGED, goes_on: false, ..PLAIN },
    Refusal { name: "no-load-address", base: harness::cmdline::Base::Load, disk: no_load,
              says: &["base=load", "no load address"], ..PLAIN },
    Refusal { name: "load-address-misplaced", base: harness::cmdline::Base::Load,
              disk: |kernel| load_at(kernel, 0x4810_0000),
              says: &["base=load", "cannot be at 0x48100000", "multiple of 2 MiB"], ..PLAIN },
];

/// Returns the cases that do not fit the table.
pub(super) fn cases() -> Vec<Case> {
    vec![
        case("refused/read-error", read_error),
        case("refused/read-error-in-the-tree", read_error_in_the_tree),
        case("refused/no-contents", no_contents),
        case("refused/all-configurations", all_configurations),
        case("refused/bootargs", bootargs),
    ]
}

/// Returns a disk with two kernels, each a configuration.
pub fn two(kernel: &Built) -> Vec<u8> {
    fit::write(&["first", "second"].map(|name| payload(name, kernel.image.clone(), None)))
}

/// Returns a disk that ends too early for its last kernel, which is the default one.
fn short(kernel: &Built) -> Result<Vec<u8>> {
    let mut disk =
        edited(&two(kernel), |tree| set(node(tree, "/configurations")?, "default", "conf-2"))?;
    let end = position(&disk, "second")? + 8192;
    disk.truncate(end);
    Ok(disk)
}

fn data_size(kernel: &Built, bytes: u32) -> Result<Vec<u8>> {
    edited(&two(kernel), |tree| set(node(tree, "/images/first")?, "data-size", bytes))
}

fn over_tree(kernel: &Built) -> Result<Vec<u8>> {
    edited(&two(kernel), |tree| set(node(tree, "/images/first")?, "data-position", 64_u32))
}

fn no_kernel(kernel: &Built) -> Result<Vec<u8>> {
    let loadable = Payload {
        kind: Kind::Loadable { load: 0x4800_0000 },
        ..payload("first", vec![1; 64], None)
    };
    Ok(fit::write(&[loadable, payload("second", kernel.image.clone(), None)]))
}

fn no_hash(kernel: &Built) -> Result<Vec<u8>> {
    edited(&two(kernel), |tree| {
        node(tree, "/images/first")?.remove_child("hash-1");
        Ok(())
    })
}

fn no_default(kernel: &Built) -> Result<Vec<u8>> {
    edited(&two(kernel), |tree| {
        node(tree, "/configurations")?.remove_property("default");
        Ok(())
    })
}

fn two_kernels(kernel: &Built) -> Result<Vec<u8>> {
    edited(&two(kernel), |tree| {
        set(node(tree, "/configurations/conf-1")?, "kernel", vec!["first", "second"])
    })
}

fn unknown_hash(kernel: &Built) -> Result<Vec<u8>> {
    edited(&two(kernel), |tree| set(node(tree, "/images/first/hash-1")?, "algo", "crc16-ccitt"))
}

/// Returns a disk whose first kernel's digest is by that algorithm, and has `bytes` zeros.
fn hash(kernel: &Built, algorithm: &str, bytes: usize) -> Result<Vec<u8>> {
    edited(&two(kernel), |tree| {
        let hash = node(tree, "/images/first/hash-1")?;
        set(hash, "algo", algorithm)?;
        set(hash, "value", vec![0_u8; bytes].as_slice())
    })
}

fn compressed(kernel: &Built) -> Result<Vec<u8>> {
    edited(&two(kernel), |tree| set(node(tree, "/images/first")?, "compression", "lzma"))
}

fn no_load(kernel: &Built) -> Result<Vec<u8>> {
    loads(kernel, [None, Some(harness::disk::LOAD)])
}

fn load_at(kernel: &Built, load: u64) -> Result<Vec<u8>> {
    loads(kernel, [Some(load), Some(harness::disk::LOAD)])
}

fn loads(kernel: &Built, [first, second]: [Option<u64>; 2]) -> Result<Vec<u8>> {
    let of = |name, load| payload(name, kernel.image.clone(), load);
    Ok(fit::write(&[of("first", first), of("second", second)]))
}

/// Returns a disk whose tree has the word `value` at `offset` bytes from the place that the
/// header's word `from` names.
fn damaged(kernel: &Built, from: usize, offset: isize, value: u32) -> Result<Vec<u8>> {
    let mut disk = two(kernel);
    let start = u32::from_be_bytes(disk[from * 4..from * 4 + 4].try_into()?) as usize;
    let at = start.checked_add_signed(offset).unwrap_or_default();
    let word = &mut disk[at..at + 4];
    ensure!(word != value.to_be_bytes(), "the tree already has {value:#x} at byte {at}");
    word.copy_from_slice(&value.to_be_bytes());
    Ok(disk)
}

/// Makes a sector of the first configuration's kernel unreadable.
fn read_error(trial: &mut Trial<'_>) -> Result<()> {
    let disk = two(trial.kernel());
    let start = position(&disk, "first")? / fit::SECTOR;
    let cmdline = Cmdline { append: vec!["on-refusal=continue".to_owned()], ..trial.cmdline() };
    let mut request = trial.request("nvhe", &cmdline)?;
    request.disk = Disk::Bytes(disk.into());
    request.drive = qemu::failing_drive([start + 20]);
    let logs = trial.logs(&request)?;
    // One request reads all blocks of one run of frames; the refusal names its first block.
    let block = format!("the disk fails to read block {start}: ");
    logs[..logs.len() - 1].iter().try_for_each(|gen_log| alive(gen_log, &[&block]))
}

/// Makes the first sector unreadable.
fn read_error_in_the_tree(trial: &mut Trial<'_>) -> Result<()> {
    let mut request = trial.request("nvhe", &trial.cmdline())?;
    request.drive = qemu::failing_drive([0]);
    failed(trial, &request, &["the disk fails to read block 0: "])
}

/// Makes the first sector unreadable with `on-refusal=continue`. The kernel must refuse once, since
/// there is no next configuration.
fn no_contents(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline { append: vec!["on-refusal=continue".to_owned()], ..trial.cmdline() };
    let mut request = trial.request("nvhe", &cmdline)?;
    request.drive = qemu::failing_drive([0]);
    failed(trial, &request, &["the disk fails to read block 0: "])
}

/// Checks that the last refusal reports that no configuration is left, if all are bad.
fn all_configurations(trial: &mut Trial<'_>) -> Result<()> {
    let mut images =
        ["first", "second"].map(|name| payload(name, trial.kernel().image.clone(), None));
    images.iter_mut().for_each(|image| image.data[boot::image::MAGIC_AT] ^= 1);
    let cmdline = Cmdline { append: vec!["on-refusal=continue".to_owned()], ..trial.cmdline() };
    let mut request = trial.request("nvhe", &cmdline)?;
    request.disk = Disk::Bytes(fit::write(&images).into());
    let outcome = trial.ends(&request, Verdict::Failed(1))?;
    let logs = transcript::logs(&outcome.console)?;
    let refused: Vec<_> = logs.iter().flat_map(|gen_log| &gen_log.refused).collect();
    ensure!(refused.len() == 3, "refusals: {refused:#?}");
    ensure!(
        refused[2].contains("no configuration after the 2 that were refused"),
        "{}",
        refused[2]
    );
    Ok(())
}

/// Checks that the kernel refuses parameters with invalid values.
fn bootargs(trial: &mut Trial<'_>) -> Result<()> {
    for (word, expected) in [
        ("restart=hott", "expected restart=hot or cold"),
        ("base=nowhere", "expected base=same, random or load"),
        ("generations=0", "a number from 1"),
        ("seed=fish", "a 64-bit number"),
        ("el2=on", "expected el2=nvhe or vhe"),
        ("alternate=no", "expected alternate, without a value"),
        ("on-refusal=panic", "expected on-refusal=continue"),
        ("selftest=all", "expected selftest=stub"),
        ("payload=", "expected payload=NAME"),
    ] {
        let cmdline = Cmdline { append: vec![word.to_owned()], ..trial.cmdline() };
        let request = trial.request("nvhe", &cmdline)?;
        let outcome = trial.ends(&request, Verdict::Failed(1))?;
        let refused = format!("{}bootargs: \"{word}\": ", marker::REFUSED);
        let line = outcome.console.lines().find(|line| line.contains(&refused)).unwrap_or_default();
        ensure!(line.contains(expected), "no line refuses \"{word}\" with \"{expected}\"");
        ensure!(!outcome.console.contains(marker::BYE), "{word}: the kernel printed Bye!");
    }
    Ok(())
}
