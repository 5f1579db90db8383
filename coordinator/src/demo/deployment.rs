//! The deployment file of the demo: small, but with every kind of step.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::package;

/// How nodes prove that they have what was released, without Shoal's help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By this list of SHA-256 of the unpacked files.
    Files(PathBuf),
    /// By the SHA-256 of the package, which cannot be unpacked.
    Package(String),
}

impl Proof {
    /// For the package at `path`; a list of its files goes to `list`.
    ///
    /// # Errors
    /// If the package cannot be read or the list not written.
    pub fn of(path: &Path, list: &Path) -> io::Result<Self> {
        if package::write_checksums(path, list)? {
            return Ok(Self::Files(list.to_owned()));
        }
        Ok(Self::Package(package::sha256_hex(&mut File::open(path)?)?))
    }
}

/// The file for `version`; nodes install below `machines`, each in a folder of its own, and are up when `health` serves
/// what they wrote there last. The paths have only letters that neither YAML nor a shell takes for something else.
pub fn text(version: &str, proof: &Proof, machines: &Path, health: &str) -> String {
    let machines = machines.display();
    let head = format!(
        r#"name: demo
release: {version:?}
packages:
  app: {{ feed: origin, id: app, version: {version:?} }}
targets:
  - {{ select: "role=demo", packages: [app] }}
acquire:
  source: feed
  quorum: 100%
before_acquire:
  - {{ name: prepare, run: 'mkdir -p "{machines}/$SHOAL_NODE"', timeout: 30s }}
steps:
"#
    );
    let unpack = match proof {
        Proof::Files(_) => {
            format!("  - {{ name: unpack, unpack: app, to: \"{machines}/${{SHOAL_NODE}}\", keep: 2, timeout: 5m }}\n")
        }
        Proof::Package(_) => String::new(),
    };
    let check = match proof {
        Proof::Files(list) => format!(
            r#"      cd "$home/current"
      sha256sum -c "{}" > "$home/checked"
      echo "$(wc -l < "$home/checked") files of $SHOAL_RELEASE are what was released""#,
            list.display()
        ),
        Proof::Package(hash) => format!(
            r#"      [ "$(sha256sum < "$SHOAL_PACKAGE_APP")" = "{hash}  -" ]
      echo "the package of $SHOAL_RELEASE is what was released""#
        ),
    };
    let prove = format!(
        r#"  - name: prove
    timeout: 5m
    run: |
      set -e
      home="{machines}/$SHOAL_NODE"
{check}
      touch "$home/proved-$SHOAL_RELEASE"
"#
    );
    let url = format!("{health}/${{SHOAL_NODE}}/proved-${{SHOAL_RELEASE}}");
    format!("{head}{unpack}{prove}  - {{ name: up, check: {{ http: \"{url}\", within: 30s }} }}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_ones_that_a_coordinator_reads() {
        let machines = Path::new("/tmp/shoal demo/machines");
        let proofs = [Proof::Files("/tmp/shoal demo/app-1.0.sha256".into()), Proof::Package("ab".repeat(32))];
        for (proof, steps) in proofs.iter().zip([3, 2]) {
            let text = text("1.0", proof, machines, "http://127.0.0.1:4711");
            let spec = crate::spec_file::parse(&text, Path::new("demo.yaml")).unwrap();
            assert_eq!(
                (spec.release.as_str(), spec.steps.len(), spec.before_acquire.len()),
                ("1.0", steps, 1),
                "{text}"
            );
            let check = spec.steps.last().and_then(|step| step.check.as_ref()).unwrap();
            let url = "http://127.0.0.1:4711/${SHOAL_NODE}/proved-${SHOAL_RELEASE}";
            assert_eq!(check.http.as_deref(), Some(url));
        }
    }
}
