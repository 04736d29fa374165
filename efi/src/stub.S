// In and out of the firmware's world: the application's entry point, and the last instructions before the Image's own.

        .section .text.efi, "ax"

// efi_entry — is where UEFI starts the Image as an application.
//   in        x0 = image handle; x1 = system table
//   assumes   EL1 or EL2 as the firmware has it, MMU and caches on, all memory 1:1; the firmware's stack and vectors
//   out       x0 = status, to the firmware | does not return: the Image was entered
//   clobbers  as AAPCS64; x18, which UEFI tells everybody to leave alone and Rust's core does not, is as it came in the end
//   memory    relr_applied and the places that RELR names; the stack
        .global efi_entry
efi_entry:
        stp     x29, x30, [sp, #-32]!
        str     x18, [sp, #16]
        mov     x29, sp
        // No pointer of the Image's tables is good before this: Rust's calls through them are what it is for.
        stp     x0, x1, [sp, #-16]!
        adr_l   x0, _start
        bl      relocate_self
        ldp     x0, x1, [sp], #16
        bl      {MAIN}
        ldr     x18, [sp, #16]
        ldp     x29, x30, [sp], #32
        ret

// efi_leave — goes from the firmware's map to the Image's first instruction, in the state that the boot protocol asks for.
//   in        x0, x1 = the device tree, its first byte, 8-byte aligned, and the one behind it; x2, x3 = the Image's file, in the same way
//   assumes   boot services left; all three 1:1 in the map, and this routine  [I2]
//   out       does not return; at the Image's start: EL as it was, MMU and D-cache off, DAIF masked, x1 = x2 = x3 = 0; Image and tree
//             clean to PoC  [I1]
//   clobbers  x1–x7, x9, flags
//   memory    cleans both, and itself; uses no stack
        .global efi_leave
efi_leave:
        msr     daifset, #0xf
        mov     x4, x2
        // Whatever is read past the caches: both, and what is fetched from here once they are off.
        dcache_line x5, x9
        mov     x6, x0
        dcache_by_line cvac, x6, x1, x5, x9
        dcache_by_line cvac, x2, x3, x5, x9
        adr     x6, efi_leave
        adr     x7, efi_leave_end
        dcache_by_line cvac, x6, x7, x5, x9
        // In memory before the I-cache forgets what lay in the Image's place, for it may be filled again at once.
        dsb     sy
        ic      iallu
        dsb     nsh
        mov     x1, xzr
        mov     x2, xzr
        mov     x3, xzr
        mrs     x9, CurrentEL
        cmp     x9, #{CURRENT_EL2}
        b.eq    1f
        mov_q   x9, {SCTLR_EL1_MMU_OFF}
        // No speculative fetch from after the write runs under the old value (Falkor erratum 1041).
        isb
        msr     sctlr_el1, x9
        b       2f
1:      mov_q   x9, {SCTLR_EL2_MMU_OFF}
        isb
        // With E2H, should a firmware have that, the same bits turn the same things off.
        msr     sctlr_el2, x9
        // Off before the Image's first instruction is fetched.
2:      isb
        br      x4
        .global efi_leave_end
efi_leave_end:
