// The PE/COFF header, after the arm64 header in the Image's first page.
//
// Field names are those of Microsoft's PE format specification.

        // The linker puts this section directly after boot's .head, so pe_header is HEADER_BYTES
        // into the Image. `address` stores the offset of a symbol in the Image.
        .section .head.pe, "a"

        .macro  address symbol
        .long   \symbol - pe_header + {HEADER_BYTES}
        .endm

pe_header:
        .ascii  "PE\0\0"
        .short  {MACHINE}
        .short  2                               // NumberOfSections
        .long   0                               // TimeDateStamp: none, for reproducible builds
        .long   0                               // PointerToSymbolTable
        .long   0                               // NumberOfSymbols
        .short  {OPTIONAL_HEADER_BYTES}
        .short  {CHARACTERISTICS}

        // The optional header, which an executable must have.
        .short  {MAGIC}
        .byte   0, 0                            // linker's version
        .long   _pe_text_size                   // SizeOfCode
        .long   _pe_data_size                   // SizeOfInitializedData
        .long   _pe_bss_size                    // SizeOfUninitializedData
        address efi_entry                       // AddressOfEntryPoint
        .long   _pe_text                        // BaseOfCode
        .quad   0                               // ImageBase: any address
        .long   {SECTION_ALIGNMENT}
        .long   {FILE_ALIGNMENT}
        .short  0, 0                            // operating system's version
        .short  {IMAGE_VERSION}, 0              // MajorImageVersion, MinorImageVersion
        .short  0, 0                            // subsystem's version
        .long   0                               // Win32VersionValue
        .long   _image_size                     // SizeOfImage
        .long   _pe_text                        // SizeOfHeaders
        .long   0                               // CheckSum
        .short  {SUBSYSTEM}
        .short  {NX_COMPAT}
        .quad   0, 0, 0, 0                      // stack and heap: the firmware's own
        .long   0                               // LoaderFlags
        .long   {DIRECTORIES}
        .fill   {DIRECTORIES}, 8, 0

        .ascii  ".text\0\0\0"
        .long   _pe_text_size                   // VirtualSize
        .long   _pe_text                        // VirtualAddress
        .long   _pe_text_size                   // SizeOfRawData
        .long   _pe_text                        // PointerToRawData
        .long   0, 0                            // no relocations, no line numbers
        .short  0, 0
        .long   {TEXT}

        .ascii  ".data\0\0\0"
        .long   _pe_data_memory
        .long   _pe_data
        .long   _pe_data_size
        .long   _pe_data
        .long   0, 0
        .short  0, 0
        .long   {DATA}

        .purgem address
