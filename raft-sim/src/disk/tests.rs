//! The simulated disk keeps what is synced, forgets what is not, and fails as told.

use raft_log::vfs::{AlignedBuffer, Vfs, VfsFile};

use super::*;

fn block(fill: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(1);
    buffer.bytes_mut().fill(fill);
    buffer
}

fn vfs(seed: u64) -> SimVfs {
    SimVfs::new(Random::stream(seed, Stream::Disk(NodeId(1))))
}

fn read(file: &dyn VfsFile, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    file.read_at(offset, &mut bytes).unwrap();
    bytes
}

fn open(vfs: &SimVfs, path: &Path) -> std::sync::Arc<dyn VfsFile> {
    vfs.open(path, raft_log::vfs::Access::ReadWrite).unwrap()
}

#[test]
fn what_is_synced_survives_and_what_is_not_is_old_or_new_by_sector() {
    let path = Path::new("d/f");
    let mut tearings = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let vfs = vfs(seed);
        let file = vfs.create(path).unwrap();
        file.write_at(0, block(1).as_aligned()).unwrap();
        file.sync_data().unwrap();
        vfs.sync_dir(Path::new("d")).unwrap();
        file.write_at(0, block(2).as_aligned()).unwrap();
        vfs.medium().lose_power();
        let bytes = read(open(&vfs, path).as_ref(), 0);
        let sectors: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
        for (sector, fill) in bytes.chunks(512).zip(&sectors) {
            assert!(matches!(fill, 1 | 2));
            assert!(sector.iter().all(|byte| byte == fill), "sectors are whole");
        }
        tearings.insert(sectors);
    }
    assert!(tearings.contains(&vec![1; 8]) && tearings.contains(&vec![2; 8]));
    assert!(tearings.len() > 50, "blocks tear in many ways");
}

#[test]
fn names_without_a_directory_sync_may_be_lost_and_synced_ones_never_are() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..100 {
        let vfs = vfs(seed);
        vfs.create(Path::new("d/old")).unwrap();
        vfs.sync_dir(Path::new("d")).unwrap();
        vfs.create(Path::new("d/new")).unwrap();
        vfs.medium().lose_power();
        match vfs.list(Path::new("d")).unwrap().len() {
            1 => lost += 1,
            2 => kept += 1,
            other => panic!("{other} files"),
        }
        assert!(vfs.medium().inode_of("d/old").is_ok());
    }
    assert!(lost > 20 && kept > 20, "{lost} {kept}");
}

#[test]
fn a_failed_sync_keeps_or_loses_pages_and_no_later_sync_writes_them() {
    for pages in [PagesAfterFailure::Kept, PagesAfterFailure::Lost] {
        let (mut visible, mut survived) = (0, 0);
        for seed in 0..100 {
            let vfs = vfs(seed);
            let path = Path::new("d/f");
            let file = vfs.create(path).unwrap();
            file.write_at(0, block(1).as_aligned()).unwrap();
            file.sync_data().unwrap();
            vfs.sync_dir(Path::new("d")).unwrap();
            file.write_at(0, block(2).as_aligned()).unwrap();
            vfs.medium().faults.fail_sync = Some(pages);
            file.sync_data().unwrap_err();
            visible += u32::from(read(file.as_ref(), 0) == [2; 4096]);
            file.sync_data().unwrap();
            vfs.medium().lose_power();
            survived += u32::from(read(open(&vfs, path).as_ref(), 0) == [2; 4096]);
        }
        match pages {
            PagesAfterFailure::Kept => assert_eq!(visible, 100),
            PagesAfterFailure::Lost => assert!(visible < 20, "{visible}"),
        }
        assert!(survived < 60, "{survived}");
    }
}

#[test]
fn a_full_disk_takes_what_fits_and_has_room_again() {
    let vfs = vfs(1);
    let file = vfs.create(Path::new("d/f")).unwrap();
    vfs.medium().faults.capacity_bytes = Some(5000);
    file.write_at(0, block(1).as_aligned()).unwrap();
    let error = file.write_at(4096, block(1).as_aligned()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(file.size().unwrap(), 4096);
    // What is overwritten needs no room.
    file.write_at(0, block(2).as_aligned()).unwrap();
    vfs.medium().faults.capacity_bytes = None;
    file.write_at(4096, block(1).as_aligned()).unwrap();
}

#[test]
fn a_removed_file_stays_readable_through_its_handle() {
    let vfs = vfs(1);
    let file = vfs.create(Path::new("d/f")).unwrap();
    file.write_at(0, block(7).as_aligned()).unwrap();
    vfs.remove(Path::new("d/f")).unwrap();
    vfs.sync_dir(Path::new("d")).unwrap();
    assert_eq!(read(file.as_ref(), 0), [7; 4096]);
}

#[test]
fn rot_and_misdirected_writes_change_synced_bytes_and_never_to_zeros() {
    for corruption in [Corruption::BitRot, Corruption::MisdirectedWrite] {
        let mut changed = 0;
        for seed in 0..50 {
            let disk = Disk::new(seed, NodeId(1));
            let file = disk.vfs.create(Path::new("d/f")).unwrap();
            for at in 0..4 {
                let content = block(at as u8 + 1);
                file.write_at(at * 4096, content.as_aligned()).unwrap();
            }
            file.sync_data().unwrap();
            disk.vfs.sync_dir(Path::new("d")).unwrap();
            let before: Vec<_> = (0..4).map(|at| read(file.as_ref(), at * 4096)).collect();
            let said = disk.corrupt(corruption);
            let after: Vec<_> = (0..4).map(|at| read(file.as_ref(), at * 4096)).collect();
            assert_eq!(said, before != after);
            changed += u32::from(said);
            let sectors = after.iter().flat_map(|block| block.chunks(512));
            assert!(sectors.into_iter().all(|sector| sector != [0; 512]));
        }
        assert!(changed > 20, "{corruption:?} {changed}");
    }
}
