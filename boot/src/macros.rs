//! `assembly!`: assembles a `.S` file with the shared macros of `macros.S`.

/// Assembles a `.S` file with the shared macros.
///
/// `const` and `sym` operands follow the file, as in `global_asm!`. The operands listed here serve
/// the shared macros; the file may use them as well.
#[macro_export]
macro_rules! assembly {
    ($text:expr $(, $($operand:tt)*)?) => {
        core::arch::global_asm!(
            $crate::assembler_macros!(),
            $text,
            ID_FIELD_BITS = const $crate::sysreg::ID_FIELD_BITS,
            CTR_DMINLINE = const $crate::sysreg::ctr::DMINLINE,
            NZCV_C = const $crate::sysreg::nzcv::C,
            DAIF_ALL = const $crate::sysreg::daif::ALL,
            CURRENT_EL2 = const $crate::sysreg::current_el::EL2,
            SPSR_AT_EL2_BIT = const $crate::sysreg::spsr::AT_EL2.trailing_zeros(),
            EC_SHIFT = const $crate::esr::EC_SHIFT,
            EC_BITS = const $crate::esr::EC_BITS,
            EC_HVC64 = const $crate::esr::EC_HVC64,
            SET_VECTORS = const $crate::hyp::SET_VECTORS,
            SOFT_RESTART = const $crate::hyp::SOFT_RESTART,
            STUB_ERR = const $crate::hyp::STUB_ERR,
            VECTORS_ALIGNMENT = const $crate::hyp::VECTORS_ALIGNMENT,
            SCTLR_EL2_MMU_OFF = const $crate::sysreg::sctlr::EL2_MMU_OFF,
            FAILURE_REASON = const core::mem::offset_of!(
                $crate::failure_record::FailureRecord,
                reason
            ),
            UART_STATUS = const core::mem::offset_of!($crate::uart::Uart, status),
            UART_DATA = const core::mem::offset_of!($crate::uart::Uart, data),
            UART_BEFORE = const core::mem::offset_of!($crate::uart::Uart, before),
            UART_ROOM = const core::mem::offset_of!($crate::uart::Uart, room_mask),
            UART_STATUS_BYTES = const core::mem::offset_of!($crate::uart::Uart, status_bytes),
            UART_DATA_BYTES = const core::mem::offset_of!($crate::uart::Uart, data_bytes),
            UART_POLLS = const $crate::uart::POLLS,
            $($($operand)*)?
        );
    };
}

/// Expands to the text of `macros.S`, after one macro for each [marker](crate::marker!) that prints
/// its text.
///
/// The assembler sees all `.S` files of a crate, and at link time of all crates, as one text. It
/// takes the macros from the first of them and skips this text in the others.
#[doc(hidden)]
#[macro_export]
macro_rules! assembler_macros {
    () => {
        concat!(
            ".ifndef .Lshared_macros\n",
            ".set .Lshared_macros, 1\n",
            $crate::assembler_markers!(
                exception
                register
                early_idmap_full
                broken
                soft_restart_returned
                invalid_entry
                mismatch
                relocation_fault
                stopped
            ),
            // The path begins at the crate that is being compiled, a neighbour of boot.
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../boot/src/macros.S")),
            ".endif\n",
        )
    };
}

/// Expands to an assembler macro `marker_NAME` for each name of a [marker](crate::marker!).
#[doc(hidden)]
#[macro_export]
macro_rules! assembler_markers {
    ($($name:ident)*) => {
        concat!($(
            ".macro marker_",
            stringify!($name),
            "\n.ascii \"",
            $crate::marker!($name),
            "\"\n.endm\n",
        )*)
    };
}
