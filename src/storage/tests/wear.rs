//! How much the disk wears: bytes of the pages that a put makes it write.

use super::super::simdisk::SimDisk;
use super::*;

#[tokio::test]
async fn a_small_put_alone_costs_few_bytes_on_the_disk() {
    let sim = SimDisk::new(1);
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let (mut log, machine) = super::super::open(&disk, Path::new("/device")).unwrap();
    let count = 2500;
    let before = sim.written();
    for index in 0..count {
        let body = vec![b'x'; 512];
        let write = Write::Put { key: Key::new("Test", "", format!("doc-{}", index % 1000)), body };
        let txn = Txn { batch: Batch { checks: Vec::new(), writes: vec![write] }, ..txn(index) };
        let entry = Entry::new(log_id(index), EntryPayload::Normal(Command::Txn(txn)));
        append(&mut log, [entry.clone()]).await.unwrap();
        log.save_committed(Some(log_id(index))).await.unwrap();
        machine.state().apply(&[entry]).await.unwrap();
        if machine.state().wants_durable() {
            machine.state().make_durable().await.unwrap();
        }
    }
    let each = (sim.written() - before) / count;
    println!("{each} bytes a put");
    assert!(each <= 6 << 10, "{each} bytes are written for a put of 512");
}

/// As 256 clients write that have nothing to do with each other: their keys lie far apart.
#[tokio::test]
async fn puts_far_apart_share_their_pages() {
    const CLIENTS: u64 = 256;
    const BATCH: u64 = 64;
    let sim = SimDisk::new(1);
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let (mut log, machine) = super::super::open(&disk, Path::new("/device")).unwrap();
    let count = 16_384;
    let before = sim.written();
    for first in (0..count).step_by(usize::try_from(BATCH).unwrap()) {
        let entries: Vec<Entry> = (first..first + BATCH)
            .map(|index| {
                let name = format!("client-{}-{}", index % CLIENTS, index / CLIENTS);
                let write = Write::Put { key: Key::new("Test", "default", name), body: vec![b'x'; 512] };
                let txn = Txn { batch: Batch { checks: Vec::new(), writes: vec![write] }, ..txn(index) };
                Entry::new(log_id(index), EntryPayload::Normal(Command::Txn(txn)))
            })
            .collect();
        append(&mut log, entries.clone()).await.unwrap();
        log.save_committed(Some(log_id(first + BATCH - 1))).await.unwrap();
        machine.state().apply(&entries).await.unwrap();
        if machine.state().wants_durable() {
            machine.state().make_durable().await.unwrap();
        }
    }
    machine.state().settle().await.unwrap();
    let each = (sim.written() - before) / count;
    println!("{each} bytes a put");
    assert!(each <= 3 << 10, "{each} bytes are written for a put of 512");
}
