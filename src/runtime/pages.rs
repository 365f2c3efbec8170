//! Pages of the program itself: given back when they are not needed for a while.

use nix::libc;

/// The largest page that there is: what is given back begins and ends on one.
const PAGE: usize = 64 << 10;

/// Gives back the pages of the program that were touched so far. Those that are still needed come back by
/// themselves from the file, mostly without reading it: the kernel keeps what it has of a file for as long
/// as nobody needs the memory for more. A process may do so at any time, whatever its threads do.
#[expect(unsafe_code, reason = "the program's headers and madvise")]
pub fn forget_program() {
    // SAFETY: the callback has the type that the function wants, and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(forget), std::ptr::null_mut()) };
}

/// Takes the first object, the program, and none after it.
#[expect(unsafe_code, reason = "called by the C library with its own structures")]
unsafe extern "C" fn forget(object: *mut libc::dl_phdr_info, _: usize, _: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the C library hands over a valid structure with so many headers, for as long as this runs.
    let (object, headers) =
        unsafe { (&*object, std::slice::from_raw_parts((*object).dlpi_phdr, usize::from((*object).dlpi_phnum))) };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        let number = |value| usize::try_from(value).unwrap_or_default();
        let (start, end) = whole_pages(number(object.dlpi_addr) + number(header.p_vaddr), number(header.p_memsz));
        if start < end {
            let place = std::ptr::without_provenance_mut(start);
            // SAFETY: the program is mapped here privately from its file, and no part of it that may be
            // written: dropped pages read the same again.
            unsafe { libc::madvise(place, end - start, libc::MADV_DONTNEED) };
        }
    }
    1
}

/// The whole pages in a stretch of memory.
fn whole_pages(start: usize, length: usize) -> (usize, usize) {
    (start.next_multiple_of(PAGE), (start + length) / PAGE * PAGE)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "reads /proc")]
mod tests {
    use super::*;

    /// KiB of this process's resident memory that files stand behind.
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    #[test]
    fn pages_of_the_program_are_given_back_and_come_again() {
        assert_eq!(whole_pages(1, PAGE * 3), (PAGE, PAGE * 3));
        // Touched by the other tests of this program or not: this walks through a good part of it.
        let begun = regular();
        let before = resident();
        forget_program();
        let after = resident();
        assert!(after < before, "{after} KiB of {before}");
        assert_eq!(regular(), begun);
    }

    /// Something that takes code and constants of the program.
    fn regular() -> String {
        let value: serde_json::Value = serde_json::from_str(r#"{"a": [1, 2.5, "three"], "b": null}"#).unwrap();
        format!("{value:?}")
    }
}
