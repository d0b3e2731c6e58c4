//! The heap: small pieces of memory side by side, without a word before each and without rounding up; large ones are pages
//! of their own, which go back to the kernel.
//!
//! What Rust asks for it gives back with its size, so that nothing has to be noted with a piece. What is had of the C
//! library is given back without: it keeps a header with each piece, has few sizes, pages of its own for every size, and
//! keeps them. That is more than twice the memory for what is kept here: thousands of short texts and small structures.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

/// Sizes of pieces are multiples of this, bytes, and so are their addresses: enough for all that is not a vector register.
const GRAIN: usize = 8;

/// Up to so many bytes there is a list for each size.
const EXACT: usize = 1024;

/// Above `EXACT`, pieces have powers of two, so many of them. They are had again without the kernel, which may refuse them.
const POWERS: usize = 3;

/// What is larger than so many bytes, or more aligned than `GRAIN`, gets pages.
const LARGEST: usize = EXACT << POWERS;

/// So many bytes are asked of the kernel at once, to be cut into pieces; those that nobody writes to cost nothing.
const CHUNK: usize = 256 << 10;

/// A free piece; the next one of its size, or null, is noted in it.
struct Free {
    next: *mut Free,
}

/// What is free.
struct Pieces {
    /// Pieces that were given back: those of `GRAIN` bytes, then those of twice as many, and so on; then the powers of two.
    lists: [*mut Free; EXACT / GRAIN + POWERS],
    /// The rest of the chunk that is being cut up, and its size in bytes.
    rest: *mut u8,
    left: usize,
}

/// The heap of a process. Threads take turns, as there is hardly ever more than one.
pub struct Heap {
    busy: AtomicBool,
    pieces: UnsafeCell<Pieces>,
}

// SAFETY: whoever uses `pieces` has set `busy`.
unsafe impl Sync for Heap {}

impl Heap {
    /// One that has no memory yet.
    #[allow(clippy::new_without_default)] // it is a static
    pub const fn new() -> Heap {
        let pieces = Pieces { lists: [null_mut(); EXACT / GRAIN + POWERS], rest: null_mut(), left: 0 };
        Heap { busy: AtomicBool::new(false), pieces: UnsafeCell::new(pieces) }
    }

    /// Does something with the pieces while nobody else does.
    fn with<T>(&self, what: impl FnOnce(&mut Pieces) -> T) -> T {
        while self.busy.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
        // SAFETY: `busy` was false and is true until below, so that nobody else is here.
        let result = what(unsafe { &mut *self.pieces.get() });
        self.busy.store(false, Ordering::Release);
        result
    }
}

/// The list that pieces of such a layout are in; `None`: they are pages.
fn list(layout: Layout) -> Option<usize> {
    let small = layout.size() <= LARGEST && layout.align() <= GRAIN;
    let last = layout.size().saturating_sub(1);
    small.then(|| if last < EXACT { last / GRAIN } else { EXACT / GRAIN + (last / EXACT).ilog2() as usize })
}

/// New memory, all zeros, from the start of a page on; null when there is none.
fn map(size: usize) -> *mut u8 {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: this maps new pages, where the kernel likes.
    or_null(unsafe { libc::mmap(null_mut(), size, access, kind, -1, 0) })
}

fn or_null(pages: *mut libc::c_void) -> *mut u8 {
    if pages == libc::MAP_FAILED {
        return null_mut();
    }
    pages.cast()
}

impl Pieces {
    fn take(&mut self, list: usize) -> *mut u8 {
        let free = self.lists[list];
        if !free.is_null() {
            // SAFETY: what is in a list is a piece that nobody uses, with a `Free` in it.
            self.lists[list] = unsafe { (*free).next };
            return free.cast();
        }
        let size = match list.checked_sub(EXACT / GRAIN) {
            Some(power) => EXACT << (power + 1),
            None => (list + 1) * GRAIN,
        };
        if self.left < size {
            let chunk = map(CHUNK);
            if chunk.is_null() {
                return chunk;
            }
            (self.rest, self.left) = (chunk, CHUNK);
        }
        let piece = self.rest;
        // SAFETY: `left` bytes are there, and `size` is no more.
        self.rest = unsafe { piece.add(size) };
        self.left -= size;
        piece
    }

    fn give(&mut self, list: usize, piece: *mut u8) {
        let free: *mut Free = piece.cast();
        // SAFETY: nobody uses the piece any more; it has at least `GRAIN` bytes, and is so aligned.
        unsafe { (*free).next = self.lists[list] };
        self.lists[list] = free;
    }
}

// SAFETY: a piece is in a list, in the rest of the chunk or with a caller, never in two of them; it is as long and as
// aligned as its layout says, pages as far as there are such layouts. Nothing here panics.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match list(layout) {
            Some(list) => self.with(|pieces| pieces.take(list)),
            None => map(layout.size()),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller answers for the layout.
        let piece = unsafe { self.alloc(layout) };
        if list(layout).is_some() && !piece.is_null() {
            // SAFETY: it is so long. Pages are new, and zeros already.
            unsafe { piece.write_bytes(0, layout.size()) };
        }
        piece
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        match list(layout) {
            Some(list) => self.with(|pieces| pieces.give(list, piece)),
            None => {
                // SAFETY: these are whole pages, mapped for this layout, and nobody uses them any more.
                unsafe { libc::munmap(piece.cast(), layout.size()) };
            }
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller answers for the size.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (list(layout), list(wanted)) {
            // SAFETY: these are whole pages, mapped for this layout.
            (None, None) => or_null(unsafe { libc::mremap(piece.cast(), layout.size(), size, libc::MREMAP_MAYMOVE) }),
            (old, new) if old == new => piece,
            _ => {
                // SAFETY: the caller answers for the layout.
                let moved = unsafe { self.alloc(wanted) };
                if !moved.is_null() {
                    // SAFETY: both are so long, and they are two.
                    unsafe { moved.copy_from_nonoverlapping(piece, layout.size().min(size)) };
                    // SAFETY: nobody uses it any more.
                    unsafe { self.dealloc(piece, layout) };
                }
                moved
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A piece that is in use: where it is, its layout, and what all its bytes are.
    type Used = (*mut u8, Layout, u8);

    fn check((piece, layout, byte): Used) {
        assert_eq!(piece.align_offset(layout.align()), 0, "{layout:?}");
        for index in 0..layout.size() {
            // SAFETY: the piece is in use, and so long.
            assert_eq!(unsafe { piece.add(index).read() }, byte, "{layout:?} at {index}");
        }
    }

    /// No piece has a byte that is another's, whatever is taken, resized and given back in whatever order.
    #[test]
    fn pieces_never_overlap() {
        let heap = Heap::new();
        let mut used: Vec<Used> = Vec::new();
        let mut seed = 1u32;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % below
        };
        for step in 0..12_000 {
            let byte = step as u8;
            let size = 1 + random([64, 64, 2 * LARGEST, 40_000][step % 4]);
            let what = random(5);
            if what < 2 || used.is_empty() {
                let layout = Layout::from_size_align(size, 1 << random(6)).unwrap();
                // SAFETY: the layout's size is not zero.
                let piece = unsafe { heap.alloc_zeroed(layout) };
                check((piece, layout, 0));
                // SAFETY: it is new, and so long.
                unsafe { piece.write_bytes(byte, size) };
                used.push((piece, layout, byte));
                continue;
            }
            let one = used.swap_remove(random(used.len()));
            check(one);
            let (piece, layout, old) = one;
            if what == 2 {
                // SAFETY: it is in use, and of that layout.
                let moved = unsafe { heap.realloc(piece, layout, size) };
                check((moved, Layout::from_size_align(layout.size().min(size), layout.align()).unwrap(), old));
                // SAFETY: it is so long now.
                unsafe { moved.write_bytes(byte, size) };
                used.push((moved, Layout::from_size_align(size, layout.align()).unwrap(), byte));
            } else {
                // SAFETY: it is in use, and of that layout.
                unsafe { heap.dealloc(piece, layout) };
            }
        }
        used.into_iter().for_each(check);
    }

    #[test]
    fn what_was_given_back_is_taken_again() {
        let heap = Heap::new();
        let layout = Layout::new::<[u64; 5]>();
        for _ in 0..CHUNK {
            // SAFETY: the size is not zero, and the pieces are given back as they were taken.
            unsafe {
                let (one, other) = (heap.alloc(layout), heap.alloc(layout));
                heap.dealloc(one, layout);
                heap.dealloc(other, layout);
            }
        }
        heap.with(|pieces| assert_eq!(pieces.left, CHUNK - 2 * layout.size()));
    }

    #[test]
    fn threads_take_turns() {
        let heap = Heap::new();
        std::thread::scope(|scope| {
            for byte in 0..4 {
                let heap = &heap;
                scope.spawn(move || {
                    for size in (1..=LARGEST).cycle().take(20_000) {
                        let layout = Layout::from_size_align(size, 1).unwrap();
                        // SAFETY: the size is not zero; the piece is ours until it is given back.
                        unsafe {
                            let piece = heap.alloc(layout);
                            piece.write_bytes(byte, size);
                            check((piece, layout, byte));
                            heap.dealloc(piece, layout);
                        }
                    }
                });
            }
        });
    }
}
