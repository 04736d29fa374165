// In and out of the firmware's world: the application's entry point, and the last instructions before the Image's own.

        .section .text.efi, "ax"

// efi_entry — is where UEFI starts the Image as an application.
//   in        x0 = image handle; x1 = system table
//   assumes   EL1 or EL2 as the firmware has it, MMU and caches on, all memory 1:1; the firmware's stack and vectors
//   out       x0 = status, to the firmware | does not return: the Image was entered
//   clobbers  as AAPCS64; x18 as it came, which UEFI keeps for the platform
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
//   in        x0 = device tree, physical, 8-byte aligned; x1 = the Image's first instruction, physical
//   assumes   boot services left; this routine 1:1 in the map, it, the Image and the device tree clean to PoC  [I1]
//   out       does not return; at x1: EL as it was, MMU and D-cache off, DAIF masked, x1 = x2 = x3 = 0
//   clobbers  x1–x4, x9, flags
//   memory    touches none; uses no stack
        .global efi_leave
efi_leave:
        msr     daifset, #0xf
        mov     x4, x1
        mrs     x9, CurrentEL
        // No speculative fetch from after either write runs under the old value (Falkor erratum 1041).
        isb
        cmp     x9, #{CURRENT_EL2}
        b.eq    1f
        mov_q   x9, {SCTLR_EL1_MMU_OFF}
        msr     sctlr_el1, x9
        b       2f
        // With E2H, should a firmware have that, the same bits turn the same things off.
1:      mov_q   x9, {SCTLR_EL2_MMU_OFF}
        msr     sctlr_el2, x9
        // Off before anything else is fetched.
2:      isb
        // What was cached of the instructions' place before they were there.
        ic      iallu
        dsb     nsh
        isb
        mov     x1, xzr
        mov     x2, xzr
        mov     x3, xzr
        br      x4
        .global efi_leave_end
efi_leave_end:
