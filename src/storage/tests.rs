use openraft::StorageError as RaftStorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::*;

struct RealStore;

impl StoreBuilder<TypeConfig, Log, Machine, TempDir> for RealStore {
    async fn build(&self) -> Result<(TempDir, Log, Machine), RaftStorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let (log, machine) = open(dir.path()).unwrap();
        Ok((dir, log, machine))
    }
}

#[tokio::test]
async fn openrafts_own_storage_suite_passes() {
    Suite::test_all(RealStore).await.unwrap();
}
