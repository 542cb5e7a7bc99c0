//! The demo of the README, as its first command runs it: two instances with real file systems, all four operations.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use snapferry_testkit::workspace_binary;

#[test]
fn the_demo_brings_every_volume_back_and_leaves_nothing_behind() {
    let output = Command::new(workspace_binary("snapferry").unwrap()).arg("demo").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let all = format!("{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{all}");
    assert!(told.contains("restored volumes are equal to the originals, byte for byte"), "{all}");
    for step in ["first backup", "IntelliSnap backup", "backup copy", "as instance", "from its snapshots"] {
        assert!(told.contains(step), "no {step} in {all}");
    }
}
