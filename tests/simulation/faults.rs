//! What a fault does to the world.

use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;

use super::network::{Host, Net};
use super::schedule::Fault;
use super::world::World;

type Verdict = Result<(), String>;

/// More members are not added, fewer are not left.
const MEMBERS: (usize, usize) = (3, 7);
/// How often a link comes and goes in one flap.
const FLAPS: u32 = 20;

impl World {
    pub async fn inflict(&mut self, fault: Fault) -> Verdict {
        let unit = self.plan.unit;
        let span = Duration::from_millis(self.chance.random_range(unit / 4..=unit * 12));
        match fault {
            Fault::Cut => {
                if let Some(number) = self.any() {
                    self.cut(number);
                }
            }
            Fault::CutInWrite => {
                let operations = self.chance.random_range(1..60);
                if let Some(host) = self.any_host() {
                    self.light_fuse(host.number, operations, host.dead);
                }
            }
            Fault::CutAll => {
                for host in self.net.hosts() {
                    self.cut(host.number);
                }
            }
            Fault::Restart => {
                if let Some(number) = self.any() {
                    self.stop(number).await?;
                }
            }
            Fault::OneWay | Fault::Slow | Fault::Flap => self.trouble_link(fault, span),
            Fault::Alone => {
                if let Some(number) = self.any() {
                    let others: Vec<u64> = self.numbers().into_iter().filter(|&other| other != number).collect();
                    part(&self.net, &[number], &others, span);
                }
            }
            Fault::Split => {
                let (here, there): (Vec<u64>, Vec<u64>) =
                    self.numbers().into_iter().partition(|_| self.chance.random_bool(0.5));
                part(&self.net, &here, &there, span);
            }
            Fault::SlowDisk | Fault::FullDisk => self.trouble_disk(fault, span),
            Fault::Clock => {
                let clocks = [0, 1_800_000_000_000, 1_800_000_000_000 + 315_360_000_000];
                let clock = clocks.choose(&mut self.chance).copied().unwrap_or(0);
                if let Some(number) = self.any() {
                    self.set_clock(number, clock);
                }
            }
            Fault::Transfer => self.transfer(),
            Fault::Compact => {
                if let Some(Host { engine, dead, .. }) = self.any_host() {
                    dead.run_until_cancelled(engine.snapshot_now()).await;
                    // What is forgotten was looked at before.
                    self.live(Duration::from_millis(200)).await?;
                    dead.run_until_cancelled(engine.forget_log()).await;
                }
            }
            Fault::Join if !self.changing && self.devices.len() < MEMBERS.1 => self.join(),
            Fault::Leave if !self.changing && self.devices.len() > MEMBERS.0 => {
                if let Some(number) = self.numbers().choose(&mut self.chance).copied() {
                    self.leave(number);
                }
            }
            Fault::Join | Fault::Leave => {}
        }
        Ok(())
    }

    fn numbers(&self) -> Vec<u64> {
        self.devices.keys().copied().collect()
    }

    fn trouble_link(&mut self, fault: Fault, span: Duration) {
        let pair: Vec<u64> = self.numbers().choose_multiple(&mut self.chance, 2).copied().collect();
        let &[from, to] = pair.as_slice() else { return };
        let net = self.net.clone();
        match fault {
            Fault::OneWay => {
                net.cut(from, to);
                tokio::spawn(async move {
                    tokio::time::sleep(span).await;
                    net.mend(from, to);
                });
            }
            Fault::Slow => {
                let late = self.chance.random_range(1..=self.plan.unit);
                net.slow_down(from, to, late);
                tokio::spawn(async move {
                    tokio::time::sleep(span).await;
                    net.slow_down(from, to, 0);
                });
            }
            _ => {
                tokio::spawn(async move {
                    for _ in 0..FLAPS {
                        cut_both(&net, from, to);
                        tokio::time::sleep(span / FLAPS / 2).await;
                        mend_both(&net, from, to);
                        tokio::time::sleep(span / FLAPS / 2).await;
                    }
                });
            }
        }
    }

    fn trouble_disk(&mut self, fault: Fault, span: Duration) {
        let Some(number) = self.any() else { return };
        let usual = self.plan.disk;
        let slow = self.chance.random_range(1..=self.plan.unit / 2);
        let Some(disk) = self.devices.get(&number).map(|device| device.disk.clone()) else { return };
        match fault {
            Fault::SlowDisk => disk.set_latency((slow / 4, slow)),
            // Enough for votes and the log's reserve, too little for entries.
            _ => disk.leave_room(Some(6 << 20)),
        }
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            disk.set_latency(usual);
            disk.leave_room(None);
        });
    }

    /// Asks for another leader, which may well not work out.
    fn transfer(&mut self) {
        let Some(Host { engine, dead, .. }) = self.any_host() else { return };
        let voters: Vec<u64> = engine.probe().voters.into_iter().collect();
        let Some(to) = voters.choose(&mut self.chance).copied() else { return };
        tokio::spawn(async move { dead.run_until_cancelled(engine.transfer_leader(to)).await });
    }
}

fn cut_both(net: &Net, from: u64, to: u64) {
    net.cut(from, to);
    net.cut(to, from);
}

fn mend_both(net: &Net, from: u64, to: u64) {
    net.mend(from, to);
    net.mend(to, from);
}

/// Cuts every link between two groups for a while.
fn part(net: &Net, here: &[u64], there: &[u64], span: Duration) {
    let pairs: Vec<(u64, u64)> = here.iter().flat_map(|&from| there.iter().map(move |&to| (from, to))).collect();
    let net = net.clone();
    for &(from, to) in &pairs {
        cut_both(&net, from, to);
    }
    tokio::spawn(async move {
        tokio::time::sleep(span).await;
        for &(from, to) in &pairs {
            mend_both(&net, from, to);
        }
    });
}
