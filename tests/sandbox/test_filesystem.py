"""The virtual file system by itself: what a path finds, what it never finds, and what a refusal says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.programs import bundle, mount_links, open_descriptors, tree
from wisp.policy.ceilings import Ceilings, default_policies_dir
from wisp.policy.narrowing import narrow
from wisp.policy.parse import parse_policy
from wisp.sandbox.filesystem import MAX_DEPTH, MAX_NAME_BYTES, FileTree, Refused
from wisp.sandbox.nodes import MAX_NODES, BundleFile, Directory, Failed, LogFile, Node, ScratchFile, Symlink
from wisp.sandbox.preview1 import Errno
from wisp.sandbox.resolution import MAX_LINKS
from wisp.wire.invocations import MountLink

FILES = {"labels.txt": b"cat\ndog\n", "words/en/a.txt": b"a", "words/secret.key": b"k", "empty.txt": b""}
NAMES = st.sampled_from(["data", "words", "en", "a.txt", "labels.txt", "log", "tmp", "x", "etc", "..", ".", "", "…"])
NAMES_TO_GRANT = st.text("ab.-_é,#&! ", min_size=1, max_size=6).filter(lambda name: name not in (".", ".."))


def full() -> FileTree:
    return tree(
        ("/data", "bundle", ["*.txt", "words/**/*.txt"]),
        ("/data/words/log", "log"),
        ("/tmp", "scratch", 1000),
        ("/tmp/in/log", "log"),
        files=FILES,
    )


def errno_of(files: FileTree, path: str) -> Errno:
    with pytest.raises(Failed) as failed:
        files.lookup(files.root, path)
    return failed.value.errno


def refusal_of(files: FileTree, path: str) -> Refused:
    with pytest.raises(Refused) as refused:
        files.lookup(files.root, path)
    return refused.value


def every_node(directory: Directory) -> list[Node]:
    found: list[Node] = [directory]
    for child in directory.children.values():
        found += every_node(child) if isinstance(child, Directory) else [child]
    return found


def listing(files: FileTree, path: str) -> list[str]:
    node = files.lookup(files.root, path)
    assert isinstance(node, Directory)
    return sorted(node.children)


def put(files: FileTree, path: str, content: bytes = b"") -> LogFile | ScratchFile:
    made = files.create_file(files.find(files.root, path))
    if isinstance(made, ScratchFile):
        made.write(0, content)
    return made


class TestFinding:
    def test_directories_are_made_of_mount_points_and_bundle_paths(self) -> None:
        files = full()
        assert listing(files, ".") == ["data", "tmp"]
        assert listing(files, "data") == ["empty.txt", "labels.txt", "words"]
        assert listing(files, "data/words/") == ["en", "log"]
        assert listing(files, "tmp") == ["in"]

    def test_a_file_is_found_where_its_mount_puts_it(self) -> None:
        files = full()
        for path in ("data/labels.txt", "./data/./labels.txt", "data//labels.txt", "tmp/in/../../data/labels.txt"):
            node = files.lookup(files.root, path)
            assert isinstance(node, BundleFile)
            assert node.size == len(FILES["labels.txt"])

    def test_a_path_starts_at_its_directory_and_stays_below_it(self) -> None:
        files = full()
        words = files.lookup(files.root, "data/words")
        assert isinstance(words, Directory)
        assert isinstance(files.lookup(words, "en/a.txt"), BundleFile)
        assert files.lookup(words, "en/..") is words
        for path in ("..", "../labels.txt", "en/../..", "../../etc/passwd", "/data/labels.txt", "/"):
            with pytest.raises(Failed) as failed:
                files.lookup(words, path)
            assert failed.value.errno is Errno.NOTCAPABLE

    @pytest.mark.parametrize(
        ("path", "errno"),
        [
            ("", Errno.NOENT),
            ("data/none.txt", Errno.NOENT),
            ("data/words/en/deeper/x.txt", Errno.NOENT),
            ("data/labels.txt/x", Errno.NOTDIR),
            ("data/labels.txt/", Errno.NOTDIR),
            ("data/labels.txt/.", Errno.NOTDIR),
            ("tmp/none", Errno.NOENT),
            ("tmp/none/deeper", Errno.NOENT),
            ("..", Errno.NOTCAPABLE),
            ("x" * (MAX_NAME_BYTES + 1), Errno.NAMETOOLONG),
            ("é" * 128, Errno.NAMETOOLONG),
            ("/".join("a" * (MAX_DEPTH + 1)), Errno.NAMETOOLONG),
        ],
    )
    def test_what_is_wrong_with_a_path_is_an_errno(self, path: str, errno: Errno) -> None:
        assert errno_of(full(), path) is errno

    @given(st.lists(NAMES, max_size=12).map("/".join), st.sampled_from([".", "data", "data/words", "tmp"]))
    def test_no_sequence_of_components_leads_out(self, path: str, start_path: str) -> None:
        """Whatever is found lies below the start, and every path to it says the same."""
        files = full()
        start = files.lookup(files.root, start_path)
        assert isinstance(start, Directory)
        try:
            found = files.lookup(start, path)
        except (Failed, Refused):
            return
        assert any(found is node for node in every_node(start))

    @given(st.lists(st.sampled_from(["data", "words", "secret.key", "en", "..", "."]), max_size=9).map("/".join))
    def test_what_no_glob_lets_through_is_not_in_the_tree(self, path: str) -> None:
        files = full()
        try:
            found = files.lookup(files.root, path)
        except (Failed, Refused):
            return
        assert not (isinstance(found, BundleFile) and found.size == 1 and path.endswith("secret.key"))


class TestRefusing:
    @pytest.mark.parametrize(
        ("path", "said", "allow"),
        [
            ("etc/passwd", "/etc/passwd", 'files: [{mount: /etc, from: bundle, allow: ["passwd"]}]'),
            ("data/x.bin", "/data/x.bin", 'files: [{mount: /data, from: bundle, allow: ["x.bin"]}]'),
            ("data/words/secret.key", "/data/words/secret.key", 'mount: /data, from: bundle, allow: ["words/sec'),
            ("etc/../usr/lib/x", "/usr/lib/x", 'files: [{mount: /usr/lib, from: bundle, allow: ["x"]}]'),
            ("models", "/models", 'files: [{mount: /models, from: bundle, allow: ["**"]}]'),
            ("x.txt", "/x.txt", 'files: [{mount: /data, from: bundle, allow: ["x.txt"]}], and the path /data/x.txt'),
        ],
    )  # fmt: skip
    def test_a_path_that_nothing_grants_names_the_line_that_would(self, path: str, said: str, allow: str) -> None:
        refused = refusal_of(full(), path)
        assert refused.what == f"reading {said}"
        assert allow in refused.allow

    def test_what_would_be_written_asks_for_scratch(self) -> None:
        files = full()
        with pytest.raises(Refused) as refused:
            put(files, "var", b"")
        assert refused.value.allow == "files: [{mount: /var, from: scratch}]"

    @given(st.text(min_size=1, max_size=300).filter(lambda text: "\0" not in text))
    def test_any_name_at_all_makes_one_printable_line(self, name: str) -> None:
        files = tree(("/data", "bundle", ["*.txt"]), files=FILES)
        said = ""
        try:
            files.lookup(files.root, name)
        except Refused as refused:
            said = refused.what + refused.allow
        except Failed:
            pass
        assert said == "" or said.isprintable()
        assert len(said.encode()) < 3000

    @given(st.lists(NAMES_TO_GRANT, min_size=2, max_size=4))
    def test_the_line_that_it_names_is_a_policy_that_grants_it(self, names: list[str]) -> None:
        path = "/".join(names)
        files = FileTree()
        try:
            files.lookup(files.root, path)
        except Failed:
            return
        except Refused as refused:
            line = refused.allow
        if "with a shorter, plain name" in line:
            return
        ceilings = Ceilings.load(default_policies_dir())
        free = ceilings.classes[next(iter(ceilings.classes))]
        policy = parse_policy(f"wisp: 1\nabi: command\n{line}\n".encode())
        grants = narrow(policy, free, ceilings.ceiling)
        opened = FileTree(mount_links(grants.files), bundle({names[-1]: b"here"}))
        found = opened.lookup(opened.root, path)
        assert isinstance(found, BundleFile)
        opened.close()

    def test_without_mounts_there_is_an_empty_root(self) -> None:
        files = FileTree()
        assert listing(files, ".") == []
        assert "mount: /etc" in refusal_of(files, "etc/hosts").allow


class TestMounts:
    def test_the_deeper_mount_hides_what_it_stands_on(self) -> None:
        files = tree(("/a", "bundle", ["**"]), ("/a/b", "log"), files={"b/x": b"1", "b": b"2", "c": b"3"})
        assert listing(files, "a") == ["b", "c"]
        assert listing(files, "a/b") == []

    def test_two_mounts_may_show_one_bundle_each_by_its_globs(self) -> None:
        files = tree(("/a", "bundle", ["*.txt"]), ("/b", "bundle", ["words/**"]), files=FILES)
        assert listing(files, "a") == ["empty.txt", "labels.txt"]
        assert listing(files, "b") == ["words"]
        assert listing(files, "b/words") == ["en", "secret.key"]

    def test_a_file_and_a_directory_of_one_name_are_no_trouble(self) -> None:
        files = tree(("/a", "bundle", ["**"]), files={"x": b"1", "x/y": b"2"})
        assert isinstance(files.lookup(files.root, "a/x"), BundleFile)

    def test_a_bundle_mount_without_a_bundle_is_empty(self) -> None:
        files = tree(("/a", "bundle", ["**"]))
        assert errno_of(files, "a/x") is Errno.NOENT

    def test_a_mapped_bundle_keeps_no_descriptor(self) -> None:
        before = open_descriptors()
        files = full()
        assert open_descriptors() == before
        files.close()
        files.close()
        node = files.lookup(files.root, "data/labels.txt")
        assert isinstance(node, BundleFile)
        with pytest.raises(ValueError, match="bundle"):
            node.copy_to(0, 0, 4)


class TestScratch:
    def test_a_request_sees_nothing_of_the_one_before(self) -> None:
        files = full()
        put(files, "tmp/a", b"x" * 900)
        put(files, "tmp/in/log/l")
        put(files, "tmp/in/between")
        files.make_directory(files.root, "tmp/d")
        files.begin()
        assert listing(files, "tmp") == ["in"]
        assert listing(files, "tmp/in") == ["log"]
        assert listing(files, "tmp/in/log") == []
        put(files, "tmp/a", b"x" * 1000)

    def test_the_quota_counts_bytes_and_gives_them_back(self) -> None:
        files = full()
        first = put(files, "tmp/a", b"x" * 600)
        with pytest.raises(Failed) as failed:
            put(files, "tmp/b", b"y" * 401)
        assert failed.value.errno is Errno.NOSPC
        files.remove(files.root, "tmp/a", directory=False)
        assert isinstance(first, ScratchFile)
        put(files, "tmp/c", b"z" * 1000)

    def test_an_open_file_without_a_name_still_counts(self) -> None:
        files = full()
        held = put(files, "tmp/a", b"x" * 600)
        assert isinstance(held, ScratchFile)
        held.opened += 1
        files.remove(files.root, "tmp/a", directory=False)
        with pytest.raises(Failed):
            put(files, "tmp/b", b"y" * 401)
        held.opened -= 1
        held.release()
        put(files, "tmp/c", b"z" * 1000)

    def test_a_gap_counts_too(self) -> None:
        held = put(full(), "tmp/a")
        assert isinstance(held, ScratchFile)
        with pytest.raises(Failed):
            held.write(2**40, b"x")
        held.write(998, b"xy")
        assert (held.size, held.data[:998].count(0)) == (1000, 998)

    def test_nodes_are_bounded(self) -> None:
        files = full()
        for number in range(MAX_NODES):
            put(files, f"tmp/{number}")
        for attempt in ("tmp/more",):
            with pytest.raises(Failed) as failed:
                put(files, attempt)
            assert failed.value.errno is Errno.NOSPC
            with pytest.raises(Failed):
                files.make_directory(files.root, attempt)

    def test_directories_are_made_and_removed(self) -> None:
        files = full()
        files.make_directory(files.root, "tmp/d")
        put(files, "tmp/d/x")
        for path, errno in (("tmp/d", Errno.NOTEMPTY), ("tmp/in", Errno.BUSY), ("tmp", Errno.BUSY)):
            with pytest.raises(Failed) as failed:
                files.remove(files.root, path, directory=True)
            assert failed.value.errno is errno
        files.remove(files.root, "tmp/d/x", directory=False)
        files.remove(files.root, "tmp/d/", directory=True)
        assert listing(files, "tmp") == ["in"]

    @pytest.mark.parametrize(
        ("source", "target", "errno"),
        [
            ("tmp/a", "data/a", Errno.ROFS),
            ("data/labels.txt", "tmp/a2", Errno.ROFS),
            ("tmp/d", "tmp/d/e/f", Errno.INVAL),
            ("tmp/d", "tmp/a", Errno.NOTDIR),
            ("tmp/a", "tmp/d", Errno.ISDIR),
            ("tmp/a", "tmp/new/", Errno.NOTDIR),
            ("tmp/in", "tmp/out", Errno.BUSY),
            ("tmp", "tmp2", Errno.BUSY),
            ("tmp/none", "tmp/x", Errno.NOENT),
            ("tmp/.", "tmp/x", Errno.BUSY),
            ("tmp/a", "tmp/in/log/x", Errno.PERM),
        ],
    )
    def test_a_rename_that_cannot_be(self, source: str, target: str, errno: Errno) -> None:
        files = full()
        put(files, "tmp/a", b"a")
        files.make_directory(files.root, "tmp/d")
        files.make_directory(files.root, "tmp/d/e")
        with pytest.raises(Failed) as failed:
            files.rename(files.root, source, files.root, target)
        assert failed.value.errno is errno

    def test_a_rename_replaces_and_gives_the_old_bytes_back(self) -> None:
        files = full()
        put(files, "tmp/a", b"a" * 500)
        put(files, "tmp/b", b"b" * 500)
        files.rename(files.root, "tmp/a", files.root, "tmp/b")
        found = files.lookup(files.root, "tmp/b")
        assert isinstance(found, ScratchFile)
        assert found.data == b"a" * 500
        put(files, "tmp/c", b"c" * 500)
        files.make_directory(files.root, "tmp/d")
        files.make_directory(files.root, "tmp/e")
        files.rename(files.root, "tmp/d", files.root, "tmp/e/d")
        moved = files.lookup(files.root, "tmp/e/d")
        assert isinstance(moved, Directory)
        assert moved.names() == ["tmp", "e", "d"]

    def test_read_only_is_read_only_whatever_the_globs_say(self) -> None:
        files = full()
        for path in ("data/new.txt", "data/x.bin", "data/words/en/new"):
            with pytest.raises(Failed) as failed:
                put(files, path)
            assert failed.value.errno is Errno.ROFS
        with pytest.raises(Failed) as failed:
            files.remove(files.root, "data/labels.txt", directory=False)
        assert failed.value.errno is Errno.ROFS

    def test_a_log_is_only_appended_to(self) -> None:
        files = full()
        assert isinstance(put(files, "tmp/in/log/requests"), LogFile)
        with pytest.raises(Failed) as failed:
            files.remove(files.root, "tmp/in/log/requests", directory=False)
        assert failed.value.errno is Errno.PERM
        with pytest.raises(Failed) as failed:
            files.make_directory(files.root, "tmp/in/log/d")
        assert failed.value.errno is Errno.PERM


class TestLinks:
    @staticmethod
    def linked(**targets: str) -> FileTree:
        """Symbolic links in /tmp by name, beside a file, a directory and one in it."""
        files = full()
        put(files, "tmp/file", b"content")
        files.make_directory(files.root, "tmp/dir")
        put(files, "tmp/dir/inner", b"inner")
        for name, target in targets.items():
            files.make_symlink(target, files.root, f"tmp/{name}")
        return files

    @pytest.mark.parametrize(
        ("target", "rest", "found"),
        [
            ("file", "", "tmp/file"),
            ("dir", "/inner", "tmp/dir/inner"),
            ("dir/", "", "tmp/dir"),
            ("dir/../file", "", "tmp/file"),
            ("./dir/./inner", "", "tmp/dir/inner"),
            ("dir", "/../file", "tmp/file"),
        ],
    )
    def test_a_link_leads_to_a_place_in_its_mount(self, target: str, rest: str, found: str) -> None:
        files = self.linked(link=target)
        there = files.lookup(files.root, f"tmp/link{rest}", follow=True)
        assert there is files.lookup(files.root, found)
        if not rest:
            assert isinstance(files.lookup(files.root, "tmp/link"), Symlink)

    @pytest.mark.parametrize(
        ("target", "errno"),
        [
            ("..", Errno.NOTCAPABLE),
            ("../data/labels.txt", Errno.NOTCAPABLE),
            ("dir/../../tmp/file", Errno.NOTCAPABLE),
            ("../../../etc/passwd", Errno.NOTCAPABLE),
            ("in/log", Errno.NOTCAPABLE),
            ("link", Errno.LOOP),
            ("link/link", Errno.LOOP),
            ("none", Errno.NOENT),
            ("none/deeper", Errno.NOENT),
            ("file/x", Errno.NOTDIR),
            ("file/", Errno.NOTDIR),
        ],
    )
    def test_a_link_leads_nowhere_else(self, target: str, errno: Errno) -> None:
        files = self.linked(link=target)
        with pytest.raises(Failed) as failed:
            files.lookup(files.root, "tmp/link", follow=True)
        assert failed.value.errno is errno

    def test_a_link_outside_of_where_a_path_begins_is_no_way_up(self) -> None:
        files = self.linked()
        files.make_symlink("../file", files.root, "tmp/dir/up")
        start = files.lookup(files.root, "tmp/dir")
        assert isinstance(start, Directory)
        assert files.lookup(files.root, "tmp/dir/up", follow=True) is files.lookup(files.root, "tmp/file")
        with pytest.raises(Failed) as failed:
            files.lookup(start, "up", follow=True)
        assert failed.value.errno is Errno.NOTCAPABLE

    @pytest.mark.parametrize(("length", "errno"), [(MAX_LINKS, None), (MAX_LINKS + 1, Errno.LOOP)])
    def test_a_chain_has_a_bound(self, length: int, errno: Errno | None) -> None:
        files = self.linked(**{f"l{number}": f"l{number + 1}" for number in range(length)})
        put(files, f"tmp/l{length}")
        if errno is None:
            assert isinstance(files.lookup(files.root, "tmp/l0", follow=True), ScratchFile)
        else:
            with pytest.raises(Failed) as failed:
                files.lookup(files.root, "tmp/l0", follow=True)
            assert failed.value.errno is errno

    @pytest.mark.parametrize(
        ("target", "path", "errno"),
        [
            ("/etc/passwd", "tmp/x", Errno.NOTCAPABLE),
            ("", "tmp/x", Errno.NOENT),
            ("x", "tmp/file", Errno.EXIST),
            ("x", "tmp/new/", Errno.NOENT),
            ("x", "data/x", Errno.ROFS),
            ("x", "tmp/in/log/x", Errno.PERM),
            ("x" * 256, "tmp/x", Errno.NAMETOOLONG),
            ("a/" * 65, "tmp/x", Errno.NAMETOOLONG),
        ],
    )
    def test_what_cannot_be_linked(self, target: str, path: str, errno: Errno) -> None:
        files = self.linked()
        with pytest.raises(Failed) as failed:
            files.make_symlink(target, files.root, path)
        assert failed.value.errno is errno

    def test_a_link_counts_its_target_and_gives_it_back(self) -> None:
        files = full()
        put(files, "tmp/a", b"x" * 990)
        files.make_symlink("0123456789", files.root, "tmp/link")
        with pytest.raises(Failed) as failed:
            files.make_symlink("y", files.root, "tmp/more")
        assert failed.value.errno is Errno.NOSPC
        files.remove(files.root, "tmp/link", directory=False)
        put(files, "tmp/b", b"y" * 10)

    def test_removing_and_renaming_touch_the_link_and_not_what_it_leads_to(self) -> None:
        files = self.linked(link="dir", other="file")
        for path in ("tmp/link", "tmp/link/"):
            with pytest.raises(Failed) as failed:
                files.remove(files.root, path, directory=True)
            assert failed.value.errno is Errno.NOTDIR
        files.rename(files.root, "tmp/other", files.root, "tmp/renamed")
        assert isinstance(files.lookup(files.root, "tmp/renamed"), Symlink)
        files.remove(files.root, "tmp/link", directory=False)
        assert listing(files, "tmp/dir") == ["inner"]

    def test_a_hard_link_keeps_the_bytes_until_the_last_name_is_gone(self) -> None:
        files = full()
        made = put(files, "tmp/a", b"x" * 800)
        files.link(files.root, "tmp/a", files.root, "tmp/b")
        files.remove(files.root, "tmp/a", directory=False)
        assert files.lookup(files.root, "tmp/b") is made
        with pytest.raises(Failed):
            put(files, "tmp/c", b"y" * 201)
        files.remove(files.root, "tmp/b", directory=False)
        files.remove(files.root, "tmp/c", directory=False)
        put(files, "tmp/d", b"z" * 1000)

    @pytest.mark.parametrize(
        ("source", "target", "errno"),
        [
            ("tmp/dir", "tmp/x", Errno.PERM),
            ("tmp/file", "tmp/dir", Errno.EXIST),
            ("tmp/file", "tmp/file", Errno.EXIST),
            ("tmp/file", "tmp/x/", Errno.NOENT),
            ("tmp/none", "tmp/x", Errno.NOENT),
            ("data/labels.txt", "tmp/x", Errno.XDEV),
            ("tmp/file", "data/x", Errno.ROFS),
            ("tmp/file", "tmp/in/log/x", Errno.PERM),
        ],
    )
    def test_a_hard_link_that_cannot_be(self, source: str, target: str, errno: Errno) -> None:
        files = self.linked()
        with pytest.raises(Failed) as failed:
            files.link(files.root, source, files.root, target)
        assert failed.value.errno is errno

    def test_nothing_is_made_in_a_directory_that_is_gone(self) -> None:
        files = full()
        files.make_directory(files.root, "tmp/d")
        gone = files.lookup(files.root, "tmp/d")
        assert isinstance(gone, Directory)
        files.remove(files.root, "tmp/d", directory=True)
        with pytest.raises(Failed) as failed:
            files.create_file(files.find(gone, "x"))
        assert failed.value.errno is Errno.NOENT
        for _ in range(2 * MAX_NODES):  # and their names are given back
            files.make_directory(files.root, "tmp/d")
            files.remove(files.root, "tmp/d", directory=True)

    @given(
        st.lists(st.tuples(st.sampled_from("abcd"), st.lists(NAMES, min_size=1, max_size=4).map("/".join)), max_size=6),
        st.lists(st.sampled_from(["a", "b", "c", "d", "dir", "..", "inner"]), min_size=1, max_size=6).map("/".join),
    )
    def test_no_links_lead_out_of_the_mount(self, links: list[tuple[str, str]], path: str) -> None:
        files = self.linked()
        for name, target in links:
            try:
                files.make_symlink(target, files.root, f"tmp/{name}")
            except Failed:
                continue
        mount = files.lookup(files.root, "tmp")
        assert isinstance(mount, Directory)
        try:
            found = files.lookup(mount, path, follow=True)
        except (Failed, Refused):
            return
        assert any(found is node for node in every_node(mount))


class TestHost:
    def test_each_mount_shows_its_own_part_read_only(self) -> None:
        hosts = bundle({"0/a.txt": b"one", "0/sub/b.txt": b"two", "1/a.txt": b"three", "1/c.bin": b"four"})
        links = (
            MountLink(mount="/second/deep", source="host", allow=("**",)),
            MountLink(mount="/tmp", source="scratch", quota_bytes=100),
            MountLink(mount="/first", source="host", allow=("*.txt",)),
        )
        files = FileTree(links, None, hosts)
        assert (listing(files, "second/deep"), listing(files, "first")) == (["a.txt", "sub"], ["a.txt"])
        node = files.lookup(files.root, "first/a.txt")
        assert isinstance(node, BundleFile)
        assert node.size == 5
        assert errno_of(files, "first/none.txt") is Errno.NOENT
        assert "from: host" in refusal_of(files, "first/c.bin").allow
        with pytest.raises(Failed) as failed:
            put(files, "first/new.txt")
        assert failed.value.errno is Errno.ROFS
        files.close()
