//! Edits of the FIT: unusual or wrong disks for tests and injected faults.
//!
//! The tree is parsed, edited and written again; the data keep their positions.

use anyhow::{Context, Result, ensure};
use dtoolkit::{
    Node, Property, ToPropertyValue,
    fdt::Fdt,
    model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty},
};

/// Returns the disk with its tree edited; everything after the tree keeps its position.
pub fn edited(disk: &[u8], edit: impl FnOnce(&mut DeviceTree) -> Result<()>) -> Result<Vec<u8>> {
    let mut tree = tree(disk)?;
    edit(&mut tree)?;
    let old = u32::from_be_bytes(disk[4..8].try_into()?) as usize;
    let new = tree.to_dtb();
    let mut disk = disk.to_vec();
    let room = disk.len().min(old.next_multiple_of(protocol::fit::writer::ALIGNMENT));
    ensure!(
        new.len() <= room,
        "the tree grew from {old} to {} bytes, over the data at byte {room}",
        new.len()
    );
    disk[..room].fill(0);
    disk[..new.len()].copy_from_slice(&new);
    Ok(disk)
}

/// The node at `path`.
pub fn node<'a>(tree: &'a mut DeviceTree, path: &str) -> Result<&'a mut DeviceTreeNode> {
    tree.find_node_mut(path).with_context(|| format!("the tree has no {path}"))
}

/// Sets a property.
pub fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) -> Result<()> {
    node.add_property(
        DeviceTreeProperty::new(name, value).map_err(|error| anyhow::anyhow!("{name}: {error}"))?,
    );
    Ok(())
}

/// The position on the disk of the data of the image `name`.
pub fn position(disk: &[u8], name: &str) -> Result<usize> {
    let mut tree = tree(disk)?;
    let image = node(&mut tree, &format!("/images/{name}"))?;
    let position = image.property("data-position").context("no data-position")?;
    let position: u32 =
        position.value_as().map_err(|error| anyhow::anyhow!("data-position: {error}"))?;
    Ok(position as usize)
}

/// Returns the disk with the data of all `names` moved `bytes` bytes back, off the start of a
/// block.
pub fn shifted(disk: &[u8], bytes: usize, names: &[&str]) -> Result<Vec<u8>> {
    let first = names.iter().map(|name| position(disk, name)).collect::<Result<Vec<_>>>()?;
    let start = *first.iter().min().context("no data to be shifted")?;
    let mut shifted = edited(disk, |tree| {
        names.iter().zip(&first).try_for_each(|(name, position)| {
            set(
                node(tree, &format!("/images/{name}"))?,
                "data-position",
                u32::try_from(position + bytes)?,
            )
        })
    })?;
    shifted.splice(start..start, vec![0; bytes]);
    shifted.resize(shifted.len().next_multiple_of(protocol::fit::writer::SECTOR), 0);
    Ok(shifted)
}

fn tree(disk: &[u8]) -> Result<DeviceTree> {
    let bytes = u32::from_be_bytes(disk[4..8].try_into()?) as usize;
    let fdt =
        Fdt::new(&disk[..bytes]).map_err(|error| anyhow::anyhow!("the disk's tree: {error}"))?;
    Ok(DeviceTree::from_fdt(&fdt))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::payload;
    use protocol::fit::writer as fit;

    #[test]
    fn data_are_found_where_the_tree_says_after_a_shift() {
        let disk =
            fit::write(&[payload("one", vec![1; 5000], None), payload("two", vec![2; 700], None)]);
        let shifted = shifted(&disk, 100, &["one", "two"]).unwrap();
        for (name, byte, bytes) in [("one", 1, 5000), ("two", 2, 700)] {
            let at = position(&shifted, name).unwrap();
            assert_eq!(at % 4096, 100);
            assert!(shifted[at..at + bytes].iter().all(|found| *found == byte));
            assert_ne!(shifted[at - 1], byte);
        }
        assert_eq!(shifted.len() % 512, 0);
    }

    #[test]
    fn an_edit_that_would_reach_the_data_is_refused() {
        let disk = fit::write(&[payload("one", vec![1; 5000], None)]);
        let error = edited(&disk, |tree| set(&mut tree.root, "long", [7_u8; 4096])).unwrap_err();
        assert!(error.to_string().contains("over the data"), "{error}");
    }
}
