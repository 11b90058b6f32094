//! Memory that is there before it is needed.
//!
//! What the kernel has promised it makes at the first touch: a page of 4 KiB, which costs a packet about a microsecond, or one of
//! 2 MiB where huge pages are allowed, which costs it a millisecond or two where the machine is a virtual one and has to ask for the
//! page itself. A table that is reached by a hash would have its first packets pay for all of it.

use std::hint::black_box;

/// The smallest page there is.
const PAGE: usize = 4096;

/// Writes to every page of `all`, and leaves it as it is.
pub(crate) fn take<T: Copy>(all: &mut [T]) {
    let touch = |place: &mut T| *place = black_box(*place);
    let stride = (PAGE / size_of::<T>().max(1)).max(1);
    all.iter_mut().step_by(stride).for_each(touch);
    // Where the first place lies within its page, the last one may be within one more.
    all.last_mut().into_iter().for_each(touch);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_changes() {
        let mut all: Vec<u64> = (0..10_000).collect();
        take(&mut all);
        assert!(all.iter().copied().eq(0..10_000));
        take::<u64>(&mut []);
        take(&mut [[7_u8; 2 * PAGE]; 3]);
    }
}
