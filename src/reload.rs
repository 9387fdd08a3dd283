//! stub
use crate::routing::table::RoutingTable;
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::sync::Arc;
/// x
#[derive(Debug, Default)]
pub struct ReloadStatus {}
impl ReloadStatus {
    /// x
    pub fn new() -> Self {
        Self {}
    }
    /// x
    pub fn problems(&self) -> Option<String> {
        None
    }
    /// x
    pub fn needs_restart(&self) -> Vec<String> {
        Vec::new()
    }
}
/// x
pub struct ReloadHandle;
impl ReloadHandle {
    /// x
    pub fn kick(&self) {}
}
/// x
pub fn spawn(
    _p: PathBuf,
    _t: Arc<ArcSwap<RoutingTable>>,
    _s: Arc<ReloadStatus>,
    _f: Box<dyn Fn(&str, &RoutingTable, bool) + Send>,
) -> ReloadHandle {
    ReloadHandle
}
