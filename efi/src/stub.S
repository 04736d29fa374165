// EFI entry point, and the jump from the firmware's map to the Image's entry.

        .section .text.efi, "ax"

// efi_entry — relocates the Image where UEFI has loaded it, and runs the EFI loader.
//   in        x0 = image handle; x1 = system table
//   assumes   EL1 or EL2 as the firmware runs, MMU and caches on, all memory mapped 1:1; the
//             firmware's stack and vectors
//   out       x0 = status, to the firmware | does not return: the Image was entered
//   clobbers  as a function call, except x18: UEFI reserves it, but Rust's core may use it
//   memory    relr_applied and the places that RELR names; the stack
        .global efi_entry
efi_entry:
        stp     x29, x30, [sp, #-32]!
        str     x18, [sp, #16]
        mov     x29, sp
        // Relocate the pointers in the Image's tables first: Rust calls through them.
        stp     x0, x1, [sp, #-16]!
        adr_l   x0, _start
        bl      relocate_self
        ldp     x0, x1, [sp], #16
        bl      {MAIN}
        ldr     x18, [sp, #16]
        ldp     x29, x30, [sp], #32
        ret

// efi_leave — leaves the firmware's map and enters the Image as the boot protocol says.
//   in        x0 = FDT, 8-byte aligned; x1 = its end; x2 = the Image's file; x3 = its end
//   assumes   boot services left; the map holds the FDT, the Image and this routine 1:1  [I2]
//   out       does not return; at the Image's start: EL as it was, MMU and D-cache off, DAIF
//             masked, x0 unchanged, x1 = x2 = x3 = 0; Image and FDT clean to PoC  [I1]
//   clobbers  x1–x7, x9, flags
//   memory    cleans both, and itself; uses no stack
        .global efi_leave
efi_leave:
        msr     daifset, #{DAIF_ALL}
        mov     x4, x2
        // Clean to PoC what is read with the caches off: the FDT, the Image, and this code itself.
        // civac, because cvac may corrupt data on an early Cortex-A53 (errata 819472, 824069).
        dcache_line x5, x9
        mov     x6, x0
        dcache_by_line civac, x6, x1, x5, x9
        dcache_by_line civac, x2, x3, x5, x9
        adr     x6, efi_leave
        adr     x7, efi_leave_end
        dcache_by_line civac, x6, x7, x5, x9
        // The cleans complete before the I-caches are invalidated: one may refill at once from the
        // Image's place, and must find the new text there. The other CPUs enter this text as well.
        dsb     sy
        ic      ialluis
        dsb     ish
        mov     x1, xzr
        mov     x2, xzr
        mov     x3, xzr
        mrs     x9, CurrentEL
        cmp     x9, #{CURRENT_EL2}
        b.eq    1f
        mov_q   x9, {SCTLR_EL1_MMU_OFF}
        // Falkor erratum 1041: without this isb, a speculative instruction fetch may go to a wrong
        // address while the MMU is turned off.
        isb
        msr     sctlr_el1, x9
        b       2f
1:      mov_q   x9, {SCTLR_EL2_MMU_OFF}
        isb
        // If the firmware runs with E2H set, these bits turn the same things off.
        msr     sctlr_el2, x9
        // MMU and caches are off before the CPU fetches the Image's first instruction.
2:      isb
        br      x4
        .global efi_leave_end
efi_leave_end:
