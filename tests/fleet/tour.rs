//! The five minutes of the README, typed as they stand there: each command does what is shown.

use crate::harness::{Fleet, wait_for};
use crate::page::{self, Step};
use crate::stage::Stage;

/// Fewer commands than this, and the page has changed its form.
const AT_LEAST: usize = 15;

/// Whether a command of the README belongs to the tour: all with which it runs a fleet on this machine.
pub fn is_in_the_tour(step: &Step) -> bool {
    let text = std::fs::read_to_string("README.md").unwrap();
    let end = text.lines().position(|line| line == "## On real devices").expect("the README has real devices");
    step.page == "README.md" && step.line < end && !step.typed.starts_with("make ")
}

#[test]
fn the_tour_of_the_readme_can_be_typed_as_it_stands() {
    let steps: Vec<Step> = page::read("README.md").into_iter().filter(is_in_the_tour).collect();
    assert!(steps.len() >= AT_LEAST, "only {} commands found in the tour", steps.len());
    let mut stage = Stage::new(Fleet::named("t-tour"));
    for step in &steps {
        let wrong = stage.play(step, &[]);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        // Whoever reads does not type as fast as this.
        if step.bare().contains("kith scale deployment/hello --replicas 6") {
            stage.fleet.wait_ready_pods("d2", 6);
        }
        // Which of the others leads then is nobody's to say.
        if step.bare() == "kith dev kill --power d1" {
            let leader = wait_for("another leader", || stage.fleet.leader("d2").filter(|leader| leader != "d1"));
            if leader == "d3" {
                stage.names.swap("d2", "d3");
            }
        }
    }
}
