//! Writer of an initrd: a cpio archive in the `newc` format.
//!
//! Linux unpacks it as its first root file system.
//! Linux's `Documentation/driver-api/early-userspace/buffer-format.rst` defines the format: headers
//! of ASCII digits, every part padded to 4 bytes.

/// An archive that is being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// File types in `st_mode` (`stat(2)`).
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Archive {
    /// Adds a folder. Its parent folders must have been added before.
    pub fn folder(&mut self, name: &str) {
        self.entry(name, DIRECTORY | 0o755, [0; 2], &[]);
    }

    /// Adds an executable file.
    pub fn program(&mut self, name: &str, data: &[u8]) {
        self.entry(name, FILE | 0o755, [0; 2], data);
    }

    /// Adds a character device by its major and minor number.
    pub fn device(&mut self, name: &str, numbers: [u32; 2]) {
        self.entry(name, CHARACTER_DEVICE | 0o600, numbers, &[]);
    }

    /// Ends the archive and returns its bytes.
    pub fn close(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, [0; 2], &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, [major, minor]: [u32; 2], data: &[u8]) {
        self.entries += 1;
        let (size, name_size) = (cell(data.len()), cell(name.len() + 1));
        // The fields: inode, mode, user, group, links, time, size, major and minor of the file
        // system, major and minor of the device itself, length of the name, check.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08x}").bytes()));
        for part in [&[name.as_bytes(), &[0]].concat(), data] {
            self.bytes.extend(part);
            self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        }
    }
}

fn cell(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a file below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_byte_for_byte_what_the_format_says() {
        let mut archive = Archive::default();
        archive.folder("d");
        archive.program("d/f", b"hello");
        archive.device("c", [5, 1]);
        let text = "\
07070100000001000041ed000000000000000000000001000000000000000000000000000000000000000000000000\
00000002\
00000000d\0\
0707010000000200008\
1ed00000000000000000000000100000000000000050000000000000000000000000000000000000004\
00000000d/f\0\0\0hello\0\0\0\
070701000000030000218000000000000000000000000100000000000000000000000000000000000000050000000100\
00000200000000c\0\
07070100000004000000000000000000000000000000010000000000000000000000000000000000000000000000000000\
000b00000000TRAILER!!!\0\0\0\0";
        let bytes = archive.close();
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), text);
        assert_eq!(bytes.len() % 4, 0);
    }
}
