//! Interoperability of our disk format: `mkimage -l` and `dumpimage` read xtask's disks.
//!
//! `cargo test` leaves the tests that start them out; `cargo xtask test host/mkimage` runs them.
//! The unit tests of the kernel's reader check that the kernel reads the same disks.

use std::fs;
use std::process::Command;

use protocol::fit::writer as fit;

use fit::{ALIGNMENT, Kind, Payload, SECTOR};

fn payloads() -> Vec<Payload> {
    let payload = |name: &str, bytes: usize, kind| Payload {
        name: name.to_owned(),
        description: format!("the {name}"),
        data: (0..bytes).map(|byte| (byte * 7 + byte / 251) as u8 ^ bytes as u8).collect(),
        kind,
        bootargs: None,
    };
    vec![
        payload("kernel", 20_000, Kind::KernelNoload { load: None }),
        payload("initrd", 3333, Kind::Loadable { load: 0x4800_0000 }),
        payload("high", 4096, Kind::Loadable { load: 0x1_4000_0000 }),
        payload("other", 1, Kind::KernelNoload { load: Some(0x4020_0000) }),
        payload("ramdisk", 9, Kind::Initrd { load: Some(0x4a00_0000) }),
        payload("blob", 7, Kind::Fdt),
    ]
}

/// Returns a tool's output.
fn ask(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("cannot start {tool}: {error}"));
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{tool} {arguments:?}: {said}");
    said
}

#[test]
fn payloads_are_aligned_and_the_disk_is_the_same_each_time() {
    let disk = fit::write(&payloads());
    assert_eq!(disk, fit::write(&payloads()));
    assert_eq!(disk.len() % SECTOR, 0);
    // The tree takes less than a page. Then each payload takes whole pages: 5, 1, 1, 1, 1; the last
    // takes one sector.
    let places = [1, 6, 7, 8, 9, 10].map(|page| page * ALIGNMENT);
    for (payload, place) in payloads().iter().zip(places) {
        assert!(disk[place..].starts_with(&payload.data), "{}", payload.name);
    }
    assert_eq!(disk.len(), 10 * ALIGNMENT + SECTOR);
}

#[test]
#[should_panic(expected = "two payloads are named kernel")]
fn a_name_is_given_once() {
    let mut payloads = payloads();
    payloads[1].name = "kernel".to_owned();
    fit::write(&payloads);
}

#[test]
#[ignore = "starts mkimage and dumpimage; `cargo xtask test host/mkimage` runs it"]
fn mkimage_and_dumpimage_list_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, fit::write(&payloads())).unwrap();
    for tool in ["mkimage", "dumpimage"] {
        let listed = ask(tool, &["-l", file.path().to_str().unwrap()]);
        let lines: Vec<&str> = listed.lines().map(str::trim).collect();
        for line in [
            "FIT description: Ouroboros",
            "Image 0 (kernel)",
            "Description:  the kernel",
            "Type:         Kernel Image (no loading done)",
            "Compression:  uncompressed",
            "Data Size:    20000 Bytes = 19.53 KiB = 0.02 MiB",
            "Architecture: AArch64",
            "OS:           Linux",
            "Load Address: 0x48000000",
            "Load Address: 0x140000000",
            "Hash algo:    sha256",
            "Default Configuration: 'conf-1'",
            "Kernel:       kernel",
            "Loadables:    initrd",
            "Configuration 1 (conf-2)",
            "Kernel:       other",
            "Type:         RAMDisk Image",
            "Type:         Flat Device Tree",
            "Load Address: 0x4a000000",
            "Init Ramdisk: ramdisk",
            "FDT:          blob",
        ] {
            assert!(lines.contains(&line), "{tool} does not list \"{line}\":\n{listed}");
        }
        assert_eq!(
            lines.iter().filter(|line| line.starts_with("Hash value:   ")).count(),
            6,
            "{listed}"
        );
    }
}

#[test]
#[ignore = "starts dumpimage; `cargo xtask test host/mkimage` runs it"]
fn dumpimage_takes_it_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("disk"), fit::write(&payloads())).unwrap();
    for (payload, position) in payloads().iter().zip(0..) {
        let (position, out) = (position.to_string(), path("out"));
        ask("dumpimage", &["-T", "flat_dt", "-p", &position, "-o", &out, &path("disk")]);
        assert_eq!(fs::read(&out).unwrap(), payload.data, "{}", payload.name);
        fs::remove_file(&out).unwrap();
    }
}
