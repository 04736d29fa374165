//! An enum that CPUs share: an atomic byte that only ever holds one of its variants.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU8, Ordering};

/// An enum that an [`AtomicEnum`] can hold.
pub trait Variants: Copy + Eq + 'static {
    /// All variants.
    const ALL: &[Self];
}

/// An atomic variant of `T`, stored as its position in [`Variants::ALL`].
pub struct AtomicEnum<T>(AtomicU8, PhantomData<T>);

impl<T: Variants> AtomicEnum<T> {
    /// Creates it with `value`.
    pub fn new(value: T) -> Self {
        Self(AtomicU8::new(Self::position(value)), PhantomData)
    }

    /// Loads the value.
    pub fn load(&self, ordering: Ordering) -> T {
        T::ALL[usize::from(self.0.load(ordering))]
    }

    /// Stores `value`.
    pub fn store(&self, value: T, ordering: Ordering) {
        self.0.store(Self::position(value), ordering);
    }

    /// Stores `value` and returns the previous one.
    pub fn swap(&self, value: T, ordering: Ordering) -> T {
        T::ALL[usize::from(self.0.swap(Self::position(value), ordering))]
    }

    fn position(value: T) -> u8 {
        let position = T::ALL.iter().position(|&variant| variant == value);
        position.expect("ALL lists every variant") as u8
    }
}
