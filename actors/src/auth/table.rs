//! A bounded map that gives up entries which nobody has asked for.
//!
//! Second chance («clock»): a hand goes round the slots and takes the first that was not used since it last came by, and
//! after [`MAX_STEPS`] used ones the next, whatever it is. So every operation is O(1), a hit writes one flag, and a full
//! table costs no more than an empty one.

use std::{collections::HashMap, hash::Hash};

/// The most used slots that the hand passes for one insertion.
const MAX_STEPS: usize = 16;

/// Whether an entry was used since the last call.
pub(super) trait Recency {
    /// Returns the flag and clears it.
    fn take_used(&self) -> bool;
}

/// A map of at most `capacity` entries.
pub(super) struct Table<K, V> {
    index: HashMap<K, usize>,
    slots: Vec<(K, V)>,
    hand: usize,
    capacity: usize,
}

impl<K: Hash + Eq + Clone, V: Recency> Table<K, V> {
    /// Makes an empty table, of one entry at least. Memory is taken as it fills.
    pub(super) fn new(capacity: usize) -> Self {
        Self { index: HashMap::new(), slots: Vec::new(), hand: 0, capacity: capacity.max(1) }
    }

    /// Finds an entry.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let slot = *self.index.get(key)?;
        self.slots.get(slot).map(|(_, value)| value)
    }

    /// Returns some entry, always the same one while none is taken out.
    pub(super) fn first(&self) -> Option<&V> {
        self.slots.first().map(|(_, value)| value)
    }

    /// Adds or replaces an entry; returns the value that had to go for it.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some((_, old)) = self.index.get(&key).and_then(|slot| self.slots.get_mut(*slot)) {
            return Some(std::mem::replace(old, value));
        }
        if self.slots.len() < self.capacity {
            self.index.insert(key.clone(), self.slots.len());
            self.slots.push((key, value));
            return None;
        }
        let slot = self.choose();
        let (old_key, old) = std::mem::replace(self.slots.get_mut(slot)?, (key.clone(), value));
        self.index.remove(&old_key);
        self.index.insert(key, slot);
        Some(old)
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.index.remove(key)?;
        let (_, value) = self.slots.swap_remove(slot);
        if let Some((moved, _)) = self.slots.get(slot) {
            self.index.insert(moved.clone(), slot);
        }
        Some(value)
    }

    /// Takes out every entry that `doomed` names. O(n).
    pub(super) fn remove_where(&mut self, mut doomed: impl FnMut(&K, &V) -> bool) {
        let keys: Vec<K> =
            self.slots.iter().filter(|(key, value)| doomed(key, value)).map(|(k, _)| k.clone()).collect();
        for key in keys {
            self.remove(&key);
        }
    }

    /// Takes out all entries.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = V> {
        self.index.clear();
        self.hand = 0;
        self.slots.drain(..).map(|(_, value)| value)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns the slot whose entry goes.
    fn choose(&mut self) -> usize {
        for _ in 0..MAX_STEPS {
            let slot = self.step();
            if !self.slots.get(slot).is_some_and(|(_, value)| value.take_used()) {
                return slot;
            }
        }
        self.step()
    }

    fn step(&mut self) -> usize {
        let slot = if self.hand < self.slots.len() { self.hand } else { 0 };
        self.hand = slot + 1;
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    struct Entry(u32, Cell<bool>);

    impl Recency for Entry {
        fn take_used(&self) -> bool {
            self.1.replace(false)
        }
    }

    fn entry(value: u32) -> Entry {
        Entry(value, Cell::new(false))
    }

    #[test]
    fn what_is_used_stays_and_the_rest_goes_first() {
        let mut table = Table::new(4);
        for key in 0..4 {
            assert!(table.insert(key, entry(key)).is_none());
        }
        table.get(&0).unwrap().1.set(true);
        assert_eq!(table.insert(4, entry(4)).unwrap().0, 1);
        assert!(table.get(&0).is_some() && table.get(&1).is_none());
        assert_eq!(table.len(), 4);
    }

    #[test]
    fn a_table_of_used_entries_still_takes_new_ones() {
        let mut table = Table::new(100);
        for key in 0..100 {
            table.insert(key, Entry(key, Cell::new(true)));
        }
        assert_eq!(table.insert(100, entry(100)).unwrap().0, 16);
        assert_eq!(table.len(), 100);
    }

    #[test]
    fn a_table_without_room_has_room_for_one() {
        let mut table = Table::new(0);
        table.insert(1, entry(1));
        assert_eq!(table.insert(2, entry(2)).unwrap().0, 1);
        assert_eq!(table.drain().count(), 1);
        assert!(table.get(&2).is_none());
    }

    proptest! {
        /// Whatever is done, the table says what a map would, as long as nothing had to go.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0_u8..3, 0_u32..24), 0..200)) {
            let mut table = Table::new(24);
            let mut model = HashMap::new();
            for (kind, key) in steps {
                match kind {
                    0 => {
                        table.insert(key, entry(key * 2));
                        model.insert(key, key * 2);
                    }
                    1 => prop_assert_eq!(table.remove(&key).map(|e| e.0), model.remove(&key)),
                    _ => {
                        table.remove_where(|k, _| *k == key || *k == key + 1);
                        model.retain(|k, _| *k != key && *k != key + 1);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                for key in 0..24 {
                    prop_assert_eq!(table.get(&key).map(|e| e.0), model.get(&key).copied());
                }
            }
        }
    }
}
