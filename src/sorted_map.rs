//! `SortedMap` and `SortedSet`: sorted vectors with the few methods of the standard library's trees that are needed here;
//! `Index`: where in a list the items with the same number are.
//!
//! A tree takes about 5 KiB of code for each pair of key and value types, and memory for eleven entries from the first one on.
//! The maps here hold a few dozen agents, jobs or processes, mostly added in order.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

/// A binary search among `len` sorted items: `compare` compares the item at an index with the one that is looked for. The
/// result is its index, or the index at which it would have to be inserted. This code is shared by all types of items.
fn search(len: usize, compare: &dyn Fn(usize) -> Ordering) -> Result<usize, usize> {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = (low + high) / 2;
        match compare(middle) {
            Ordering::Less => low = middle + 1,
            Ordering::Equal => return Ok(middle),
            Ordering::Greater => high = middle,
        }
    }
    Err(low)
}

/// Values by key, in the order of the keys.
#[derive(Clone, PartialEq)]
pub struct SortedMap<K, V>(Vec<(K, V)>);

impl<K: Ord, V> SortedMap<K, V> {
    /// An empty one.
    pub const fn new() -> SortedMap<K, V> {
        SortedMap(Vec::new())
    }

    /// An empty one with room for so many, so that what it outgrows while it is filled is not left behind in memory.
    pub fn with_capacity(count: usize) -> SortedMap<K, V> {
        SortedMap(Vec::with_capacity(count))
    }

    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        search(self.0.len(), &|index| self.0[index].0.borrow().cmp(key))
    }

    /// Adds a value, or replaces the one that the key has.
    pub fn insert(&mut self, key: K, value: V) {
        match self.find(&key) {
            Ok(index) => self.0[index].1 = value,
            Err(index) => {
                self.insert_at(index, key, value);
            }
        }
    }

    /// The value of a key, which `fresh` makes where there is none yet.
    pub fn or_insert_with(&mut self, key: K, fresh: impl FnOnce() -> V) -> &mut V {
        let index = self.find(&key).unwrap_or_else(|index| self.insert_at(index, key, fresh()));
        &mut self.0[index].1
    }

    fn insert_at(&mut self, index: usize, key: K, value: V) -> usize {
        self.0.insert(index, (key, value));
        index
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        Some(&self.0[self.find(key).ok()?].1)
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let index = self.find(key).ok()?;
        Some(&mut self.0[index].1)
    }

    /// Whether there is a value for a key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_ok()
    }

    /// Removes the value of a key, and returns it.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let index = self.find(key).ok()?;
        Some(self.0.remove(index).1)
    }

    /// Removes all for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain_mut(|(key, value)| keep(key, value));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All in the order of the keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    /// The values in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    /// The values in the order of their keys, to be changed.
    pub fn values_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> SortedMap<K, V> {
        SortedMap(Vec::new())
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SortedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(key, value)| (key, value))).finish()
    }
}

impl<K: Ord, V> Extend<(K, V)> for SortedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        for (key, value) in pairs {
            self.insert(key, value);
        }
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SortedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> SortedMap<K, V> {
        let mut map = SortedMap::new();
        map.extend(pairs);
        map
    }
}

impl<K, V> IntoIterator for SortedMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'m, K, V> IntoIterator for &'m SortedMap<K, V> {
    type Item = (&'m K, &'m V);
    type IntoIter = std::iter::Map<std::slice::Iter<'m, (K, V)>, fn(&'m (K, V)) -> (&'m K, &'m V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

/// Different items, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct SortedSet<T>(Vec<T>);

impl<T: Ord> SortedSet<T> {
    fn find(&self, item: &T) -> Result<usize, usize> {
        search(self.0.len(), &|index| self.0[index].cmp(item))
    }

    /// An empty one.
    pub const fn new() -> SortedSet<T> {
        SortedSet(Vec::new())
    }

    /// Adds one; false when it was there.
    pub fn insert(&mut self, item: T) -> bool {
        match self.find(&item) {
            Ok(_) => false,
            Err(index) => {
                self.0.insert(index, item);
                true
            }
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is there.
    pub fn contains(&self, item: &T) -> bool {
        self.find(item).is_ok()
    }

    /// Takes it out; false when it was not there.
    pub fn remove(&mut self, item: &T) -> bool {
        self.find(item).map(|index| self.0.remove(index)).is_ok()
    }
}

impl<T> Default for SortedSet<T> {
    fn default() -> SortedSet<T> {
        SortedSet(Vec::new())
    }
}

impl<T: Ord> Extend<T> for SortedSet<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        for item in items {
            self.insert(item);
        }
    }
}

impl<T: Ord> FromIterator<T> for SortedSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> SortedSet<T> {
        let mut set = SortedSet::new();
        set.extend(items);
        set
    }
}

impl<T> IntoIterator for SortedSet<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The places in a list by a number that several of its items may share.
#[derive(Debug)]
pub struct Index(Vec<(i32, u32)>);

impl Index {
    /// Over the numbers of the items, in the order of the list.
    pub fn new(numbers: impl Iterator<Item = i32>) -> Index {
        let mut pairs: Vec<(i32, u32)> = numbers.zip(0..).collect();
        pairs.sort_unstable();
        Index(pairs)
    }

    /// The places of the items that have this number.
    pub fn of(&self, number: i32) -> impl Iterator<Item = usize> + '_ {
        let first = self.0.partition_point(|(known, _)| *known < number);
        self.0[first..].iter().take_while(move |(known, _)| *known == number).map(|(_, place)| *place as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Every small series of steps does to a map what it does to a tree.
    #[test]
    fn a_map_is_as_a_tree() {
        for series in 0u32..5000 {
            let (mut map, mut tree) = (SortedMap::new(), BTreeMap::new());
            let mut steps = series.wrapping_mul(2_654_435_761);
            for value in 0..12 {
                steps = steps.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let key = (steps >> 20) % 6;
                match (steps >> 28) % 4 {
                    0 => assert_eq!(map.remove(&key), tree.remove(&key)),
                    1 => assert_eq!(map.or_insert_with(key, || value), tree.entry(key).or_insert(value)),
                    _ => {
                        map.insert(key, value);
                        tree.insert(key, value);
                    }
                }
                assert_eq!((map.get(&key), map.len()), (tree.get(&key), tree.len()));
            }
            assert!(map.iter().eq(&tree) && map.keys().eq(tree.keys()) && map.values().eq(tree.values()), "{map:?}");
            map.retain(|key, _| key % 2 == 0);
            tree.retain(|key, _| key % 2 == 0);
            assert!(map.into_iter().eq(tree), "series {series}");
        }
    }

    #[test]
    fn a_set_is_as_a_tree() {
        let items = [5, 3, 9, 3, 1, 5, 7];
        let (mut set, mut tree): (SortedSet<i32>, BTreeSet<i32>) = (items.into_iter().collect(), items.into());
        for item in [3, 4, 9, 9] {
            assert_eq!(set.contains(&item), tree.contains(&item));
            assert_eq!(set.remove(&item), tree.remove(&item));
        }
        assert_eq!(set.insert(6), tree.insert(6));
        assert_eq!(set.insert(6), tree.insert(6));
        assert!(set.into_iter().eq(tree));
    }

    #[test]
    fn an_index_has_the_places_of_each_number() {
        let index = Index::new([7, 3, 7, -1, 3, 7].into_iter());
        for (number, places) in [(7, &[0, 2, 5][..]), (3, &[1, 4]), (-1, &[3]), (5, &[]), (8, &[])] {
            assert_eq!(index.of(number).collect::<Vec<_>>(), places, "{number}");
        }
    }
}
