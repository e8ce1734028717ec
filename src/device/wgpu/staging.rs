//! Host bytes on their way to the device.
//!
//! All writes of a batch fill chunks of host-visible memory one after the other. When the batch is submitted they are unmapped, and
//! when the device has read them they are mapped again, for batches to come: a steady step allocates none.
//!
//! wgpu's own `write_buffer` allocates for each write, and loses the device where there is no memory for that. The parameters of a
//! batch still go by it, at most 64 KiB.

use std::sync::Arc;

use parking_lot::Mutex;

/// Bytes of a chunk: wgpu clears each first, and caches hold that much.
pub(super) const CHUNK: usize = 1 << 20;

/// The most chunks that wait to be filled. Others go back to the driver.
const KEPT: usize = 8;

/// Chunks of one batch. With as many it is submitted, since they are held until then.
const MOST_OPEN: usize = 32;

/// Where writes in a chunk start: mappings may be cut at multiples of this.
const STEP: u64 = wgpu::MAP_ALIGNMENT;

#[derive(Default)]
pub(super) struct Staging {
    /// The chunks of the open batch, mapped. The last has room from `used` on.
    open: Vec<wgpu::Buffer>,
    used: u64,
    /// Those that were read, mapped: wgpu puts them here.
    kept: Arc<Mutex<Vec<wgpu::Buffer>>>,
}

impl Staging {
    /// What makes a chunk.
    pub const DESCRIPTOR: wgpu::BufferDescriptor<'static> = wgpu::BufferDescriptor {
        label: Some("staging"),
        size: CHUNK as u64,
        usage: wgpu::BufferUsages::MAP_WRITE.union(wgpu::BufferUsages::COPY_SRC),
        mapped_at_creation: true,
    };

    /// A chunk that was read.
    pub fn kept(&self) -> Option<wgpu::Buffer> {
        self.kept.lock().pop()
    }

    /// Gives back to the driver what is kept.
    pub fn release(&self) {
        self.kept.lock().clear();
    }

    /// True if the batch should be submitted before another chunk is opened.
    pub fn is_full(&self) -> bool {
        self.open.len() == MOST_OPEN
    }

    /// True if the last chunk has room for so many bytes.
    pub fn has_room(&self, bytes: usize) -> bool {
        !self.open.is_empty() && self.used + bytes as u64 <= CHUNK as u64
    }

    /// Takes a mapped chunk, for the next writes.
    pub fn open(&mut self, chunk: wgpu::Buffer) {
        self.open.push(chunk);
        self.used = 0;
    }

    /// Puts bytes, of which there are some, and zeros up to whole words, into the last chunk, which has room. Returns that, where they
    /// start, and their size.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(&wgpu::Buffer, u64, u64), wgpu::MapRangeError> {
        let chunk = self.open.last().expect("a chunk is open");
        let (start, size) = (self.used, (bytes.len() as u64).next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT));
        let mut view = chunk.get_mapped_range_mut(start..start + size)?;
        view.slice(..bytes.len()).copy_from_slice(bytes);
        view.slice(bytes.len()..).fill(0);
        self.used = (start + size).next_multiple_of(STEP);
        Ok((chunk, start, size))
    }

    /// Has the device see what was put: before the batch is submitted.
    pub fn unmap(&self) {
        self.open.iter().for_each(wgpu::Buffer::unmap);
    }

    /// Has the chunks come back when the device has read them: after the batch was submitted.
    pub fn recall(&mut self) {
        for chunk in self.open.drain(..) {
            let (kept, read) = (self.kept.clone(), chunk.clone());
            chunk.map_async(wgpu::MapMode::Write, .., move |mapped| {
                let mut kept = kept.lock();
                if mapped.is_ok() && kept.len() < KEPT {
                    kept.push(read);
                }
            });
        }
    }
}
