//! Tests of the header, blocks and tokens, on one blob whose bytes are written out.

use super::*;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Offsets in [`example`].
const STRUCTURE: usize = 72;
const STRINGS: usize = 152;
const END: usize = 160;

/// Returns a blob with `/`, its property `reg`, `/cpu@1`, and the empty node in it.
///
/// Boot CPU 3, one reservation, a NOP before the end, and four bytes of padding after the strings.
fn example() -> Vec<u8> {
    let mut blob = header(STRUCTURE, STRINGS, END, 3).to_vec();
    for number in [0x4800_0000_u64, 0x1000, 0, 0] {
        blob.extend(number.to_be_bytes());
    }
    for (word, text) in [
        (token::BEGIN_NODE, &b"\0\0\0\0"[..]),
        (token::PROP, b"\0\0\0\x05\0\0\0\0value\0\0\0"),
        (token::BEGIN_NODE, b"cpu@1\0\0\0"),
        (token::BEGIN_NODE, b"dma\0"),
        (token::PROP, b"\0\0\0\0\0\0\0\x04"),
        (token::END_NODE, b""),
        (token::END_NODE, b""),
        (token::END_NODE, b""),
        (token::NOP, b""),
        (token::END, b""),
    ] {
        blob.extend(word.to_be_bytes());
        blob.extend(text);
    }
    blob.extend(b"reg\0dma\0");
    blob.extend([0; 4]);
    blob
}

/// Returns the example with the word at `at` replaced.
fn with(at: usize, word: u32) -> Vec<u8> {
    let mut blob = example();
    blob[at..at + 4].copy_from_slice(&word.to_be_bytes());
    blob
}

fn refusal(blob: &[u8]) -> String {
    Blob::new(blob).expect_err("it was to be refused").to_string()
}

fn is_accepted(blob: &[u8]) -> bool {
    Blob::new(blob).is_ok()
}

#[test]
fn a_header_is_these_words() {
    let header = header(STRUCTURE, STRINGS, END, 3);
    let words: Vec<_> = (0..10).map(|index| word(&header, 4 * index).unwrap()).collect();
    assert_eq!(words, [0xd00d_feed, 160, 72, 152, 40, 17, 16, 3, 8, 80]);
    assert_eq!((HEADER_BYTES, VALUE_AT), (40, 12));
}

#[test]
fn a_blob_is_what_its_header_describes() {
    let bytes = example();
    let blob = Blob::new(&bytes).unwrap();
    let reservation = [0, 0, 0, 0, 0x48, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0];
    assert_eq!(blob.reservations(), [reservation]);
    assert_eq!(blob.strings(), b"reg\0dma\0");
    assert_eq!(blob.boot_cpu(), 3);
    assert_eq!(size(&bytes), Some(END));
}

#[test]
fn events_are_the_tokens_without_nops() {
    let bytes = example();
    let blob = Blob::new(&bytes).unwrap();
    let events: Vec<_> =
        blob.events().map(|event| (event.depth, event.child, event.range)).collect();
    assert_eq!(
        events,
        [
            (1, &b""[..], 72..80),
            (1, b"", 80..100),
            (2, b"cpu@1", 100..112),
            (3, b"cpu@1", 112..120),
            (3, b"cpu@1", 120..132),
            (3, b"cpu@1", 132..136),
            (2, b"cpu@1", 136..140),
            (1, b"", 140..144)
        ]
    );
    let kinds: Vec<_> = blob
        .events()
        .map(|event| match event.kind {
            Kind::Begin => "begin".to_owned(),
            Kind::End => "end".to_owned(),
            Kind::Property { name, value } => {
                format!("{}={}", name.escape_ascii(), value.escape_ascii())
            }
        })
        .collect();
    let wanted = ["begin", "reg=value", "begin", "begin", "dma=", "end", "end", "end"];
    assert_eq!(kinds, wanted);
    let first = blob.events().next().unwrap();
    assert_eq!(blob.bytes(&first), [0, 0, 0, 1, 0, 0, 0, 0]);
}

#[test]
fn only_what_is_at_depth_two_is_of_chosen() {
    let event = |depth, child| Event { kind: Kind::End, depth, child, range: 0..0 };
    assert!(event(2, b"chosen").is_of_chosen());
    assert!(!event(3, b"chosen").is_of_chosen());
    assert!(!event(2, b"cpu@1").is_of_chosen());
}

#[test]
fn a_token_ends_at_a_word() {
    // A name of three bytes fills a word with its NUL; one of four needs another word.
    for (name, next) in [(&b"abc\0"[..], 8), (b"abcd\0\0\0\0", 12), (b"\0\0\0\0", 8)] {
        let bytes = [&token::BEGIN_NODE.to_be_bytes(), name].concat();
        assert_eq!(token(&bytes, 0), Some((token::BEGIN_NODE, next)));
    }
    for (size, next) in [(0, 12), (1, 16), (4, 16), (5, 20)] {
        let bytes = [token::PROP, size, 0].map(u32::to_be_bytes).concat();
        assert_eq!(token(&bytes, 0), Some((token::PROP, next)));
    }
    let words = [0, token::END_NODE, token::NOP, token::END, 5].map(u32::to_be_bytes).concat();
    let tokens = [4, 8, 12, 16, 20, 17].map(|at| token(&words, at));
    assert_eq!(tokens, [Some((2, 8)), Some((4, 12)), Some((9, 16)), None, None, None]);
}

#[test]
fn a_name_ends_before_its_nul() {
    assert_eq!(name(b"..reg\0dma\0", 2), Some(&b"reg"[..]));
    assert_eq!(name(b"reg\0", 3), Some(&b""[..]));
    assert_eq!(name(b"reg", 0), None, "no NUL");
    assert_eq!(name(b"reg\0", 5), None);
}

#[test]
fn a_word_is_big_endian_and_whole() {
    assert_eq!(word(&[0, 1, 2, 3, 4], 1), Some(0x0102_0304));
    assert_eq!(word(&[0, 1, 2, 3, 4], 2), None);
    assert_eq!(word(&[], 1), None);
}

#[test]
fn what_begins_no_blob_has_no_size() {
    assert_eq!(size(&with(0, 0xd00d_feee)), None);
    assert_eq!(size(&example()[..7]), None);
}

#[test]
fn a_header_that_is_not_known_is_refused() {
    assert_eq!(refusal(&[]), "no header");
    assert_eq!(refusal(&example()[..39]), "no header");
    assert_eq!(refusal(&with(0, 0xedfe_0dd0)), "no magic");
    assert_eq!(refusal(&with(20, 16)), "a version that is not known");
    assert_eq!(refusal(&with(24, 18)), "a version that is not known");
    // A later version that is compatible with ours.
    assert!(is_accepted(&with(20, 18)) && is_accepted(&with(24, 17)));
}

#[test]
fn a_block_past_the_end_is_refused() {
    // The strings may end with the blob.
    assert!(is_accepted(&example()[..END]));
    assert_eq!(refusal(&example()[..END - 1]), "blocks past the end");
    assert_eq!(refusal(&with(12, 1000)), "blocks past the end");
    // A structure block of 92 bytes ends with the blob.
    assert!(is_accepted(&with(36, 92)));
    assert_eq!(refusal(&with(36, 93)), "blocks past the end");
    assert_eq!(refusal(&with(8, 0xffff_fff0)), "blocks past the end");
}

#[test]
fn reservations_without_an_end_are_refused() {
    let no_end = "memory reservations without an end";
    assert_eq!(refusal(&with(16, 1000)), no_end);
    let mut blob = example();
    blob[STRINGS..].fill(1);
    blob[END - 1] = 0;
    assert!(is_accepted(&blob));
    blob[63] = 1;
    assert_eq!(refusal(&blob), no_end);
}

#[test]
fn a_structure_that_passes_its_block_is_refused() {
    let passes = "a structure that passes its block";
    assert!(is_accepted(&with(36, 80)));
    assert_eq!(refusal(&with(36, 79)), passes);
    assert_eq!(refusal(&with(144, 5)), passes, "no such token");
    assert_eq!(refusal(&with(148, token::NOP)), passes, "no end");
    assert_eq!(refusal(&with(84, 1000)), passes, "a property's size");
}

#[test]
fn nodes_must_nest() {
    assert_eq!(refusal(&with(144, token::END_NODE)), "a node that ends twice");
    assert_eq!(refusal(&with(140, token::NOP)), "a node without an end");
}

#[test]
fn names_are_in_the_strings() {
    assert_eq!(refusal(&with(88, 8)), "a name outside the strings");
    assert!(is_accepted(&with(88, 7)));
}

#[test]
fn strings_are_bytes_that_end_in_nul_or_nothing() {
    let with_byte = |at: usize, byte| {
        let mut blob = example();
        blob[at] = byte;
        blob
    };
    assert_eq!(refusal(&with_byte(END - 1, b'!')), "strings that do not end in NUL");
    assert!(is_accepted(&with_byte(END - 2, 0xff)), "a name that is not UTF-8");
    // Without strings there is no name for a property: NOPs in place of both.
    let mut blob = with(32, 0);
    for at in (80..100).step_by(4).chain((120..132).step_by(4)) {
        blob[at..at + 4].copy_from_slice(&token::NOP.to_be_bytes());
    }
    assert!(is_accepted(&blob));
}
