//! The digests that a FIT may state for a payload, computed piece by piece.
//!
//! - Algorithms: those of U-Boot, except crc16-ccitt.
//! - SHA-512 and SHA-384 come from `hmac-sha512`, whose code has 2 KiB. `sha2` has 11 KiB of it.
//!   It can be built small for both its sizes only, which would slow SHA-256 down.
//! - Nothing here protects against an attacker, who could edit the FIT as well.

use alloc::vec::Vec;
use core::fmt;

use hmac_sha512::Hash as Sha512;
use hmac_sha512::sha384::Hash as Sha384;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::gzip;

/// A digest algorithm.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Algorithm {
    /// The CRC-32 of gzip and zlib, as a big-endian number.
    Crc32,
    /// MD5.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Every algorithm, with the name that `algo` has for it and the bytes of its digest.
    pub const ALL: [(Self, &'static str, usize); 6] = [
        (Self::Crc32, "crc32", 4),
        (Self::Md5, "md5", 16),
        (Self::Sha1, "sha1", 20),
        (Self::Sha256, "sha256", 32),
        (Self::Sha384, "sha384", 48),
        (Self::Sha512, "sha512", 64),
    ];

    /// Returns the algorithm of that name, and the bytes of its digest.
    #[must_use]
    pub fn of(name: &str) -> Option<(Self, usize)> {
        let known = Self::ALL.iter().find(|(_, known, _)| *known == name);
        known.map(|&(algorithm, _, bytes)| (algorithm, bytes))
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::ALL.iter().find(|(known, ..)| known == self);
        known.map_or(Ok(()), |(_, name, _)| f.write_str(name))
    }
}

/// A digest, as the FIT states it or as computed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Digest {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// The digest's bytes.
    pub value: Vec<u8>,
}

/// A digest that is being computed.
pub(super) enum State {
    /// The inverted CRC.
    Crc32(u32),
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl State {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Crc32 => Self::Crc32(u32::MAX),
            Algorithm::Md5 => Self::Md5(Md5::new()),
            Algorithm::Sha1 => Self::Sha1(Sha1::new()),
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha384 => Self::Sha384(Sha384::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(super) fn update(&mut self, piece: &[u8]) {
        match self {
            Self::Crc32(crc) => *crc = gzip::crc32(*crc, piece),
            Self::Md5(hash) => hash.update(piece),
            Self::Sha1(hash) => hash.update(piece),
            Self::Sha256(hash) => hash.update(piece),
            Self::Sha384(hash) => hash.update(piece),
            Self::Sha512(hash) => hash.update(piece),
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        match self {
            Self::Crc32(crc) => (!crc).to_be_bytes().to_vec(),
            Self::Md5(hash) => hash.finalize().to_vec(),
            Self::Sha1(hash) => hash.finalize().to_vec(),
            Self::Sha256(hash) => hash.finalize().to_vec(),
            Self::Sha384(hash) => hash.finalize().to_vec(),
            Self::Sha512(hash) => hash.finalize().to_vec(),
        }
    }
}
