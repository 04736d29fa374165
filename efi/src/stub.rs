//! EFI loader: the application that the firmware starts, which enters the Image.
//!
//! - Expects boot services, the firmware's 1:1 map (UEFI 2.10, 2.3.6) and stack, and the Image at
//!   any address, relocated for it.
//! - Loads the initrd that a boot manager offers by LoadFile2, if there is one.
//! - Copies the Image to a 2 MiB boundary, writes a device tree with the RAM of the firmware's
//!   memory map, leaves boot services, and enters the copy as the boot protocol says.
//! - Refuses a firmware that has no device tree, or not enough memory. It prints why on the
//!   firmware's console, frees its memory and returns a status; boot services continue.
//! - Turns the machine off if ExitBootServices keeps failing: after the first failure, no boot
//!   service but memory allocation may be called (UEFI 2.10, 7.4.6).
//!
//! This code keeps its state on the stack: the copy of the Image takes its data as it is now, so
//! that data must be unchanged.
#![expect(unsafe_code, reason = "calls the firmware, and reads and writes the memory that it gave")]

use crate::memory::MemoryMap;
use crate::{initrd, options, pe};
use boot::image::BASE_ALIGNMENT;
use boot::phys::{PAGE_SIZE, PhysAddr};
use boot::record::DTB_MAX_SIZE;
use boot::sysreg::sctlr;
use core::fmt::{self, Write};
use core::ops::{Deref, DerefMut};
use core::{ptr, slice};
use fdt::blob;
use fdt::copy;
use fdt::firmware;
use uefi_raw::protocol::console::SimpleTextOutputProtocol;
use uefi_raw::protocol::loaded_image::LoadedImageProtocol;
use uefi_raw::protocol::media::LoadFile2Protocol;
use uefi_raw::table::boot::{AllocateType, BootServices, MemoryType};
use uefi_raw::table::runtime::ResetType;
use uefi_raw::table::system::SystemTable;
use uefi_raw::{Guid, Handle, Status, guid};

/// EFI_DTB_TABLE_GUID (UEFI 2.10, 4.6.1.3).
const DEVICE_TREE: Guid = guid!("b1b621d5-f19c-41a5-830b-d9152c69aae0");

/// Room for the memory map to grow between the query for its size and the last read of it.
const MAP_SLACK: usize = 4096;

/// Number of times that the memory map may change before we give up.
const ATTEMPTS: u32 = 8;

unsafe extern "C" {
    static _start: u8;
    static data_end: u8;
    static _image_end: u8;
    fn efi_leave(tree: u64, tree_end: u64, image: u64, image_end: u64) -> !;
}

boot::assembly!(
    include_str!("stub.S"),
    MAIN = sym efi_main,
    SCTLR_EL1_MMU_OFF = const sctlr::EL1_MMU_OFF,
);

/// Reason why the Image is not entered.
#[derive(thiserror::Error, Debug)]
enum Error {
    /// The configuration tables have no device tree.
    #[error(
        "the firmware has no device tree (EFI_DTB_TABLE_GUID), and this kernel reads no ACPI \
         tables: choose device tree in its set-up; on QEMU's virt -machine acpi=off"
    )]
    NoDeviceTree,
    /// The device tree is not valid, or there is no room for the new one.
    #[error(transparent)]
    Tree(copy::Error),
    /// GetMemoryMap wrote something that is not a memory map.
    #[error("the firmware's GetMemoryMap wrote an invalid map")]
    MemoryMap,
    /// A boot service failed.
    #[error("{0} answers {status:#x}", status = .1.0)]
    Firmware(&'static str, Status),
}

impl Error {
    fn status(&self) -> Status {
        match self {
            Self::NoDeviceTree => Status::UNSUPPORTED,
            Self::Tree(_) | Self::MemoryMap => Status::LOAD_ERROR,
            Self::Firmware(_, status) => *status,
        }
    }
}

/// Runs the application. Returns only if it cannot enter the Image.
unsafe extern "C" fn efi_main(image: Handle, table: *const SystemTable) -> Status {
    // SAFETY: the firmware passes its own system table, valid until boot services are left.
    let firmware = Firmware { image, table: unsafe { &*table } };
    let Err(error) = firmware.enter_image();
    firmware.say(format_args!("Refused: {error}"));
    error.status()
}

/// Firmware, as long as there are boot services.
struct Firmware<'a> {
    image: Handle,
    table: &'a SystemTable,
}

impl Firmware<'_> {
    fn enter_image(&self) -> Result<core::convert::Infallible, Error> {
        let from = self.device_tree()?;
        let options = self.load_options();
        let bootargs = options.and_then(options::text);
        if options.is_some_and(|options| !options.is_empty()) && bootargs.is_none() {
            self.say(format_args!(
                "the load options are no text: bootargs are the device tree's own"
            ));
        }

        // Allocate everything first: an allocation changes the memory map.
        let initrd = self.initrd()?;
        let initrd_range = initrd.as_ref().map(|(pages, bytes)| {
            let start = PhysAddr::new(pages.as_ptr().expose_provenance() as u64);
            start..start + *bytes as u64
        });
        let (this, file, whole) = this_image();
        let mut map = self.pages(self.map_size()? + MAP_SLACK)?;
        let words = bootargs.clone().map_or(0, |words| words.map(char::len_utf8).sum());
        // Each descriptor may become a range of RAM, which takes 16 bytes at most.
        let room = from.len() + words + map.len() + PAGE_SIZE as usize;
        let mut to = self.pages(room.min(DTB_MAX_SIZE as usize))?;
        let mut place = self.pages(whole + BASE_ALIGNMENT as usize - PAGE_SIZE as usize)?;
        let offset = place.as_ptr().align_offset(BASE_ALIGNMENT as usize);
        let copy = &mut place[offset..offset + file];
        copy.copy_from_slice(this);
        // A PE loader writes one thing into the header, the load address. Clear it: the copy must
        // equal the file.
        copy[pe::IMAGE_BASE_AT..][..size_of::<u64>()].fill(0);
        let (image, tree) =
            (copy.as_ptr().expose_provenance() as u64, to.as_ptr().expose_provenance() as u64);
        let loaded = this.as_ptr().expose_provenance();
        self.say(format_args!("loaded at {loaded:#x}; entering {image:#x}, device tree {tree:#x}"));

        // Print nothing from here on: console output could change the memory map.
        let mut left = Err(Status::SUCCESS);
        for attempt in 0..ATTEMPTS {
            let written = self.memory_map(&mut map).and_then(|(ram, key)| {
                firmware::write(from, ram.ram(), initrd_range.clone(), bootargs.clone(), &mut to)
                    .map(|size| (size, key))
                    .map_err(Error::Tree)
            });
            left = match written {
                Ok((size, key)) => self.exit_boot_services(key).map(|()| size),
                Err(error) if attempt == 0 => return Err(error),
                Err(error) => self.turn_off(error.status()),
            };
            if left.is_ok() {
                break;
            }
        }
        let size = left.unwrap_or_else(|status| self.turn_off(status)) as u64;
        // SAFETY: boot services are left, the Image and the tree are in place, nothing else runs,
        // and the firmware maps all memory 1:1 [I2].
        unsafe { efi_leave(tree, tree + size, image, image + file as u64) }
    }

    /// Leaves boot services; fails if the memory map has changed.
    ///
    /// Not inlined, so that a test can find it by name and simulate a firmware that always refuses.
    #[inline(never)]
    fn exit_boot_services(&self, key: usize) -> Result<(), Status> {
        // SAFETY: from here on we use only our own pages, and memory that stays when boot services
        // are left.
        let status = unsafe { (self.services().exit_boot_services)(self.image, key) };
        if status.is_success() { Ok(()) } else { Err(status) }
    }

    /// Turns the machine off, after ExitBootServices has failed and may have shut down a part.
    fn turn_off(&self, status: Status) -> ! {
        // SAFETY: the firmware's own table, valid with or without boot services.
        let reset_system = unsafe { (*self.table.runtime_services).reset_system };
        // SAFETY: there is no reset data, and we need nothing after this call.
        unsafe { reset_system(ResetType::SHUTDOWN, status, 0, ptr::null()) }
    }

    fn services(&self) -> &BootServices {
        // SAFETY: the firmware's own table, valid until boot services are left.
        unsafe { &*self.table.boot_services }
    }

    /// Returns the device tree, with the size that its header gives.
    fn device_tree(&self) -> Result<&[u8], Error> {
        let (entries, count) =
            (self.table.configuration_table, self.table.number_of_configuration_table_entries);
        if entries.is_null() {
            return Err(Error::NoDeviceTree);
        }
        // SAFETY: the system table says that there are `count` entries, and they do not change.
        let entries = unsafe { slice::from_raw_parts(entries, count) };
        let entry = entries
            .iter()
            .find(|entry| entry.vendor_guid == DEVICE_TREE)
            .ok_or(Error::NoDeviceTree)?;
        let start = entry.vendor_table.cast::<u8>().cast_const();
        // SAFETY: this GUID's table is a blob, which has at least a header.
        let size = blob::size(unsafe { slice::from_raw_parts(start, blob::HEADER_BYTES) });
        let size = size.ok_or(Error::Tree(copy::Error::Damaged("no magic")))?;
        // SAFETY: the blob's header gives its size.
        Ok(unsafe { slice::from_raw_parts(start, size) })
    }

    /// Returns the load options that this image was started with.
    fn load_options(&self) -> Option<&[u8]> {
        let mut loaded = ptr::null_mut();
        // SAFETY: the handle is this image's own, and the result goes to the stack.
        let status = unsafe {
            (self.services().handle_protocol)(
                self.image,
                &LoadedImageProtocol::GUID,
                &raw mut loaded,
            )
        };
        if !status.is_success() {
            return None;
        }
        // SAFETY: this is the protocol that we requested; it is valid as long as the image.
        let loaded = unsafe { &*loaded.cast::<LoadedImageProtocol>() };
        let (start, size) = (loaded.load_options.cast::<u8>(), loaded.load_options_size as usize);
        if start.is_null() || size == 0 {
            return None;
        }
        // SAFETY: the protocol says that there are `size` bytes.
        Some(unsafe { slice::from_raw_parts(start, size) })
    }

    /// Loads the initrd that a boot manager offers, if there is one. Returns its pages and size.
    fn initrd(&self) -> Result<Option<(Pages<'_>, usize)>, Error> {
        let path = initrd::Path::INITRD;
        let (mut rest, mut handle) = (path.start(), ptr::null_mut());
        // SAFETY: path and results are on the stack. The firmware moves `rest` to the path's end.
        let status = unsafe {
            (self.services().locate_device_path)(
                &LoadFile2Protocol::GUID,
                &raw mut rest,
                &raw mut handle,
            )
        };
        if !status.is_success() {
            return Ok(None);
        }
        let mut protocol = ptr::null_mut();
        // SAFETY: the firmware has just returned this handle, and the result goes to the stack.
        let status = unsafe {
            (self.services().handle_protocol)(handle, &LoadFile2Protocol::GUID, &raw mut protocol)
        };
        let load_error = |status| Error::Firmware("LoadFile2 of the initrd", status);
        if !status.is_success() {
            return Err(load_error(status));
        }
        let protocol = protocol.cast::<LoadFile2Protocol>();
        let load = |bytes: &mut usize, buffer: *mut u8| {
            // SAFETY: this is the protocol that we requested.
            let load_file = unsafe { (*protocol).load_file };
            // SAFETY: the buffer has `bytes` bytes, and without one the firmware writes only that.
            unsafe { load_file(protocol, rest, false.into(), bytes, buffer.cast()) }
        };
        let mut bytes = 0;
        match load(&mut bytes, ptr::null_mut()) {
            Status::BUFFER_TOO_SMALL => {}
            status => return Err(load_error(status)),
        }
        let mut pages = self.pages(bytes)?;
        match load(&mut bytes, pages.as_mut_ptr()) {
            Status::SUCCESS => Ok(Some((pages, bytes))),
            status => Err(load_error(status)),
        }
    }

    /// Allocates zeroed pages for `bytes` bytes.
    fn pages(&self, bytes: usize) -> Result<Pages<'_>, Error> {
        let count = bytes.div_ceil(PAGE_SIZE as usize);
        let mut address = 0;
        // SAFETY: the result goes to the stack.
        let status = unsafe {
            (self.services().allocate_pages)(
                AllocateType::ANY_PAGES,
                MemoryType::LOADER_DATA,
                count,
                &raw mut address,
            )
        };
        if !status.is_success() {
            return Err(Error::Firmware("AllocatePages", status));
        }
        let start = ptr::with_exposed_provenance_mut::<u8>(address as usize);
        let size = count * PAGE_SIZE as usize;
        // SAFETY: the firmware has just allocated these pages to us, and maps all memory.
        unsafe { start.write_bytes(0, size) };
        // SAFETY: `from_raw_parts_mut` requires initialised memory without another reference: these
        // pages were just allocated to us and zeroed.
        let bytes = unsafe { slice::from_raw_parts_mut(start, size) };
        Ok(Pages { services: self.services(), bytes })
    }

    /// Returns the memory map's current size in bytes.
    fn map_size(&self) -> Result<usize, Error> {
        let (mut size, mut key, mut stride, mut version) = (0, 0, 0, 0);
        // SAFETY: the buffer has no bytes, so the firmware writes only its results, on the stack.
        let status = unsafe {
            (self.services().get_memory_map)(
                &raw mut size,
                ptr::null_mut(),
                &raw mut key,
                &raw mut stride,
                &raw mut version,
            )
        };
        match status {
            Status::BUFFER_TOO_SMALL => Ok(size),
            // The map does not have a single descriptor.
            Status::SUCCESS => Err(Error::MemoryMap),
            _ => Err(Error::Firmware("GetMemoryMap", status)),
        }
    }

    /// Reads the memory map, and returns it with its key.
    fn memory_map<'a>(&self, buffer: &'a mut [u8]) -> Result<(MemoryMap<'a>, usize), Error> {
        let (mut size, mut key, mut stride, mut version) = (buffer.len(), 0, 0, 0);
        // SAFETY: the buffer starts on a page and has `size` bytes.
        let status = unsafe {
            (self.services().get_memory_map)(
                &raw mut size,
                buffer.as_mut_ptr().cast(),
                &raw mut key,
                &raw mut stride,
                &raw mut version,
            )
        };
        if !status.is_success() {
            return Err(Error::Firmware("GetMemoryMap", status));
        }
        let map = buffer.get(..size).and_then(|bytes| MemoryMap::new(bytes, stride));
        map.map(|map| (map, key)).ok_or(Error::MemoryMap)
    }

    /// Prints a line on the firmware's console.
    fn say(&self, words: fmt::Arguments<'_>) {
        let mut console = Console { output: self.table.stdout, line: [0; 64], length: 0 };
        let _ = write!(console, "EFI stub: {words}\r\n");
        console.flush();
    }
}

/// Pages allocated from the firmware, and freed if the Image is not entered.
struct Pages<'a> {
    services: &'a BootServices,
    bytes: &'a mut [u8],
}

impl Deref for Pages<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl DerefMut for Pages<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

impl Drop for Pages<'_> {
    fn drop(&mut self) {
        let address = self.bytes.as_ptr().expose_provenance() as u64;
        // SAFETY: exactly these pages were allocated, and this is their last use. There is no way
        // to report a failure.
        let _ =
            unsafe { (self.services.free_pages)(address, self.bytes.len() / PAGE_SIZE as usize) };
    }
}

/// Returns this image's bytes in the file, their number, and its size in memory.
fn this_image() -> (&'static [u8], usize, usize) {
    let [start, file, end] =
        [&raw const _start, &raw const data_end, &raw const _image_end].map(<*const u8>::addr);
    let file = file - start;
    // SAFETY: the image is there, and this application does not write to it.
    (unsafe { slice::from_raw_parts(&raw const _start, file) }, file, end - start)
}

/// Console of the firmware, which takes NUL-terminated UCS-2.
struct Console {
    output: *mut SimpleTextOutputProtocol,
    line: [u16; 64],
    length: usize,
}

impl Console {
    fn flush(&mut self) {
        self.line[self.length] = 0;
        self.length = 0;
        if !self.output.is_null() {
            // SAFETY: the firmware's own protocol, valid until boot services are left.
            let output_string = unsafe { (*self.output).output_string };
            // SAFETY: the text is NUL-terminated. There is no way to report a failure.
            let _ = unsafe { output_string(self.output, self.line.as_ptr()) };
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for unit in text.encode_utf16() {
            if self.length == self.line.len() - 1 {
                self.flush();
            }
            self.line[self.length] = unit;
            self.length += 1;
        }
        Ok(())
    }
}
