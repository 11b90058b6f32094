//! Values in places that do not move, found by number.

/// A bounded slab: a number stays valid until its value is removed.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
    limit: usize,
}

impl<T> Slab<T> {
    /// A slab of at most `limit` values. Its memory is reserved now and committed as it is used.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            places: Vec::with_capacity(limit),
            free: Vec::new(),
            limit,
        }
    }

    /// Values in it.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether there is no room for another.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// Numbers ever given out: all values have smaller ones.
    pub(crate) fn end(&self) -> u32 {
        self.places.len() as u32
    }

    /// Puts a value into a free place; `None` when there is none.
    pub(crate) fn insert(&mut self, value: T) -> Option<u32> {
        if self.is_full() {
            return None;
        }
        if let Some(id) = self.free.pop() {
            self.places[id as usize] = Some(value);
            return Some(id);
        }
        self.places.push(Some(value));
        Some(self.places.len() as u32 - 1)
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, id: u32) -> Option<T> {
        let value = self.places.get_mut(id as usize)?.take()?;
        self.free.push(id);
        Some(value)
    }

    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        self.places.get(id as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.places.get_mut(id as usize)?.as_mut()
    }

    /// Two different values at once.
    pub(crate) fn pair_mut(&mut self, a: u32, b: u32) -> Option<(&mut T, &mut T)> {
        let [a, b] = self
            .places
            .get_disjoint_mut([a as usize, b as usize])
            .ok()?;
        Some((a.as_mut()?, b.as_mut()?))
    }
}
