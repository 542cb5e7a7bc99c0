//! Comparing what came back with what was there: every byte, and every tag.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use snapferry_api::job::Job;
use snapferry_types::BLOCK_SIZE;

use super::figures::Figures;
use super::instances::DemoInstance;
use super::stage::Stage;

/// Compares every volume that a restore job made with the original's content at the moment.
pub(super) fn job(
    stage: &Stage,
    figures: &mut Figures,
    job: &Job,
    instance: &DemoInstance,
    moment: &str,
) -> Result<bool> {
    let mut all_equal = true;
    for volume in &instance.volumes {
        let mut made = job.tasks.iter().flat_map(|task| &task.made);
        let made = made.find(|made| made.kind == "volume" && made.source == volume.id.as_str());
        let made = made.with_context(|| format!("the restore made no volume of {}", volume.id))?;
        let truth = volume.truth(moment).context("no copy of that moment")?;
        let differing = differing_blocks(stage, &made.id, truth)?;
        let tags_are_back = tags_are_back(stage, volume.id.as_str(), &made.id);
        figures.compared(instance.name, volume.id.as_str(), &made.id, differing, tags_are_back);
        all_equal &= differing == 0 && tags_are_back;
    }
    Ok(all_equal)
}

fn differing_blocks(stage: &Stage, restored: &str, truth: &Path) -> Result<u64> {
    let store = &stage.sim.context().store;
    let file = File::open(truth)?;
    let size = file.metadata()?.len();
    let mut expected = vec![0_u8; BLOCK_SIZE];
    let (mut offset, mut differing) = (0_u64, 0);
    while offset < size {
        file.read_exact_at(&mut expected, offset)?;
        if store.read_volume(restored, offset, BLOCK_SIZE)? != expected {
            differing += 1;
        }
        offset += BLOCK_SIZE as u64;
    }
    Ok(differing)
}

/// Whether every tag of the original volume is on the restored one.
fn tags_are_back(stage: &Stage, original: &str, restored: &str) -> bool {
    let world = &stage.sim.context().world;
    let (Some(before), Some(now)) = (world.volume_tags(original), world.volume_tags(restored)) else {
        return false;
    };
    before.iter().all(|(key, value)| now.get(key) == Some(value))
}
