//! A bound on what one pod may take of something that all share.

use crate::resident;

/// A pod may hold as many times what is left, as for flows: alone it gets four fifths, and the greed of one
/// leaves room for the others.
const SHARE: usize = 4;

/// Pods that are counted apart, as many as can be enrolled; interfaces equal modulo this share a count.
const HOLDERS: usize = 4096;

/// How much each pod holds, by its interface.
#[derive(Debug)]
pub(super) struct Shares(Box<[u16]>);

impl Shares {
    pub(super) fn new() -> Self {
        Self(vec![0; HOLDERS].into())
    }

    /// Takes all of the memory at once.
    pub(super) fn take_memory(&mut self) {
        resident::take(&mut self.0);
    }

    /// Whether this pod may take one more of the `left` that are left.
    pub(super) fn admits(&self, ifindex: u32, left: usize) -> bool {
        usize::from(self.0[holder(ifindex)]) < SHARE * left
    }

    /// One more.
    pub(super) fn take(&mut self, ifindex: u32) {
        self.0[holder(ifindex)] += 1;
    }

    /// One less.
    pub(super) fn give(&mut self, ifindex: u32) {
        self.0[holder(ifindex)] -= 1;
    }
}

fn holder(ifindex: u32) -> usize {
    ifindex as usize % HOLDERS
}
