//! Tests of the gzip decoder.

use super::*;
use flate2::{Compression, GzBuilder, write::GzEncoder};
use proptest::prelude::*;
use std::io::Write;

fn packed_by(builder: GzBuilder, bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder: GzEncoder<_> = builder.write(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    packed_by(GzBuilder::new(), bytes, 6)
}

/// Unpacks a file in pieces of `piece` bytes, after a first one of 300, `room` bytes at a time.
fn unpacked(file: &[u8], piece: usize, room: usize, limit: u64) -> Result<Vec<u8>, Error> {
    let mut unpacker = Unpacker::new(limit);
    let (mut out, mut buffer) = (Vec::new(), vec![0; room]);
    let (first, rest) = file.split_at(file.len().min(300));
    for piece in core::iter::once(first).chain(rest.chunks(piece)) {
        let mut piece = piece;
        while !piece.is_empty() {
            let (taken, made) = unpacker.unpack(piece, &mut buffer)?;
            assert!(taken + made > 0 || room == 0, "no progress");
            piece = &piece[taken..];
            out.extend(&buffer[..made]);
        }
    }
    assert_eq!(unpacker.finish()?, out.len() as u64);
    Ok(out)
}

/// Returns text and noise by turns, which deflate turns into matches and stored blocks.
fn mixed(bytes: usize) -> Vec<u8> {
    let mut noise = 1_u32;
    (0..bytes)
        .map(|at| {
            noise ^= noise << 13;
            noise ^= noise >> 17;
            noise ^= noise << 5;
            if at / 50_000 % 2 == 0 {
                b"the same words again and again "[at % 31]
            } else {
                noise as u8
            }
        })
        .collect()
}

#[test]
fn the_checksum_is_that_of_the_polynomial() {
    assert_eq!(!crc32(u32::MAX, b"123456789"), 0xcbf4_3926);
}

#[test]
fn what_was_packed_is_unpacked_however_it_comes_in() {
    let bytes = mixed(if cfg!(miri) { 3000 } else { 300_000 });
    for level in [0, 1, 9] {
        let file = packed_by(GzBuilder::new(), &bytes, level);
        for (piece, room) in [(1, 1 << 20), (4096, 4096), (1 << 20, 777), (13, 1 << 15)] {
            assert!(
                unpacked(&file, piece, room, bytes.len() as u64).unwrap() == bytes,
                "{level} {piece} {room}"
            );
        }
    }
    assert_eq!(unpacked(&packed(b""), 5, 5, 0), Ok(vec![]));
}

#[test]
fn whatever_the_header_holds_is_passed_over() {
    let named = GzBuilder::new().filename("Image").comment("a kernel").extra(vec![0; 100]).mtime(7);
    let mut file = packed_by(named, b"an Image", 6);
    assert_eq!(unpacked(&file, 3, 3, 8), Ok(b"an Image".to_vec()));
    // Also with a CRC-16, which no common tool writes.
    let end = header(&file).unwrap();
    file[3] |= FLAG_HEADER_CRC;
    file.splice(end..end, [0, 0]);
    assert_eq!(unpacked(&file, 3, 3, 8), Ok(b"an Image".to_vec()));
    // A file cut off anywhere in its header ends too early.
    for end in 0..end + 2 {
        assert_eq!(header(&file[..end]), Err(Error::EndsEarly { unpacked: 0 }), "{end}");
    }
}

#[test]
fn each_rule_can_be_broken() {
    let bytes = mixed(100_000);
    let good = packed(&bytes);
    let limit = bytes.len() as u64;
    let with = |edit: fn(&mut Vec<u8>)| {
        let mut file = good.clone();
        edit(&mut file);
        unpacked(&file, 1000, 1000, limit).map(|bytes| bytes.len()).unwrap_err()
    };
    let at = |file: &[u8], back: usize| file.len() - back;
    assert_eq!(with(|file| file[0] = b'M'), Error::NotGzip { magic: [b'M', 0x8b] });
    assert_eq!(with(|file| file[2] = 7), Error::Unknown { method: 7, flags: 0 });
    assert_eq!(with(|file| file[3] = 0x20), Error::Unknown { method: 8, flags: 0x20 });
    // The reserved block type, in the first block and in one that starts at a byte boundary.
    assert_eq!(with(|file| file[10] |= 6), Error::Damaged { unpacked: 0 });
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&bytes[..70_000]).unwrap();
    encoder.flush().unwrap();
    let block = encoder.get_ref().len();
    encoder.write_all(&bytes[70_000..]).unwrap();
    let mut file = encoder.finish().unwrap();
    file[block] |= 6;
    assert_eq!(
        unpacked(&file, 1000, 1000, limit).map(|bytes| bytes.len()),
        Err(Error::Damaged { unpacked: 70_000 })
    );
    assert_eq!(with(|file| file.truncate(file.len() - 1)), Error::EndsEarly { unpacked: limit });
    assert!(matches!(with(|file| file.truncate(9000)), Error::EndsEarly { unpacked: 1.. }));
    let error = with(|file| file.push(1));
    assert_eq!(error, Error::GoesOn { unpacked: limit });
    assert!(error.to_string().starts_with("other bytes come behind its gzip data"), "{error}");
    assert_eq!(with(|file| file.extend([0, 0, 0x1f])), Error::GoesOn { unpacked: limit });
    for (zeros, piece) in [(1, 1000), (512, 1000), (5000, 7)] {
        let padded = [&good[..], &vec![0; zeros]].concat();
        assert_eq!(unpacked(&padded, piece, 1000, limit).as_deref(), Ok(&bytes[..]));
    }
    let crc = !crc32(u32::MAX, &bytes);
    let mut file = good.clone();
    let place = at(&file, 8);
    file[place] ^= 1;
    assert_eq!(
        unpacked(&file, 1000, 1000, limit).map(|bytes| bytes.len()),
        Err(Error::Checksum { stated: crc ^ 1, found: crc })
    );
    let mut file = good.clone();
    let place = at(&file, 4);
    file[place] ^= 1;
    assert_eq!(
        unpacked(&file, 1000, 1000, limit).map(|bytes| bytes.len()),
        Err(Error::Size { stated: 100_001, found: 100_000 })
    );
}

#[test]
fn bytes_after_a_trailer_in_two_pieces_are_noticed() {
    let mut file = packed(b"an Image");
    let half = file.len() - 4;
    file.extend([0, 0, 1]);
    let (mut unpacker, mut room, mut at) = (Unpacker::new(8), [0; 8], 0);
    while at < half {
        at += unpacker.unpack(&file[at..half], &mut room).unwrap().0;
    }
    assert_eq!(unpacker.unpack(&file[at..], &mut room), Err(Error::GoesOn { unpacked: 8 }));
}

#[test]
fn a_bomb_is_refused_at_its_limit() {
    let bomb = packed(&vec![0; if cfg!(miri) { 1 << 14 } else { 16 << 20 }]);
    assert!(bomb.len() < 20_000, "{} bytes", bomb.len());
    let mut unpacker = Unpacker::new(4096);
    let (mut room, mut taken, mut made) = (vec![0; 4096], 0, 0);
    let error = loop {
        assert!(made < 8192, "{made} bytes unpacked");
        match unpacker.unpack(&bomb[taken..], &mut room[made.min(4095)..]) {
            Ok((more_taken, more_made)) => (taken, made) = (taken + more_taken, made + more_made),
            Err(error) => break error,
        }
    };
    assert_eq!((error, made), (Error::TooLarge { limit: 4096 }, 4096));
    assert_eq!(unpacker.unpacked, 4097, "one byte more than it may is enough");
}

proptest! {
    // Miri has no current directory to keep failures in.
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 })
    })]

    #[test]
    fn anything_comes_back(
        bytes in prop::collection::vec(0_u8..4, 0..5000),
        piece in 1_usize..600,
        room in 1_usize..600,
    ) {
        prop_assert_eq!(unpacked(&packed(&bytes), piece, room, bytes.len() as u64), Ok(bytes));
    }

    #[test]
    fn a_bit_that_is_turned_over_does_not_pass(bit in 0_usize..8 * 150) {
        let bytes = mixed(100);
        let mut file = packed(&bytes);
        let bit = bit % (8 * file.len());
        // Time, extra flags, system and the text flag do not matter.
        prop_assume!(!(32..80).contains(&bit) && bit != 24);
        file[bit / 8] ^= 1 << (bit % 8);
        prop_assert_ne!(unpacked(&file, 10, 10, 1 << 20), Ok(bytes));
    }
}
