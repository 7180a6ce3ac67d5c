"""Files that are one text, made by the libraries that write them."""

import docx
import pypdf
import pytest

from ratchet.bootstrap.documents.reading import read
from ratchet.bootstrap.worlds import DocumentsConfig

PAGE = """<!doctype html><html><head><meta charset="{form}"><title>The crow</title>
<script>alert("no part of it")</script></head><body><nav><a href="/">Start</a> <a href="/more">More tales</a></nav>
<main><article><h1>The crow</h1>{paragraphs}</article></main>
<footer>Read on <a rel="nofollow license" href="https://creativecommons.org/licenses/by/4.0/">as you like</a>.</footer>
</body></html>"""
TOLD = [f"Crow number {n} dropped a pebble &amp; drank, café in view of the pitcher, and flew away." for n in range(6)]


def text_of(folder, **settings):
    (document,) = read(DocumentsConfig(str(folder), **settings)).documents
    return document


def left_out(folder) -> list[tuple[str, str]]:
    """Beside a text that can be read, what cannot."""
    (folder / "zz.txt").write_text("a text")
    return [(one.source, one.reason) for one in read(DocumentsConfig(str(folder))).account.left_out]


def write_pdf(path, *pages: str) -> None:
    """A PDF as small as they come, with a line of text on each page."""
    kids = " ".join(f"{3 + 2 * n} 0 R" for n in range(len(pages)))
    objects = ["<</Type/Catalog/Pages 2 0 R>>", f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>"]
    font = "<</Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    for n, said in enumerate(pages):
        drawn = f"BT /F 12 Tf 50 700 Td ({said}) Tj ET"
        objects += [
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources{font}/Contents {4 + 2 * n} 0 R>>",
            f"<</Length {len(drawn)}>>stream\n{drawn}\nendstream",
        ]
    written, places = "%PDF-1.4\n", []
    for n, body in enumerate(objects, 1):
        places.append(len(written))
        written += f"{n} 0 obj{body}endobj\n"
    rows = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    end = f"xref\n0 {size}\n0000000000 65535 f \n{rows}trailer<</Size {size}/Root 1 0 R>>\n"
    path.write_bytes(f"{written}{end}startxref\n{len(written)}\n%%EOF\n".encode("latin-1"))


@pytest.mark.parametrize("form", ["utf-8", "iso-8859-1", "utf-16"])
def test_of_a_web_page_its_main_text_and_its_licence_are_read(tmp_path, form):
    html = PAGE.format(form=form, paragraphs="".join(f"<p>{told}</p>" for told in TOLD))
    (tmp_path / "crow.html").write_bytes(html.encode(form))
    found = text_of(tmp_path)
    assert [told.replace("&amp;", "&") for told in TOLD] == found.text.splitlines()[-6:]
    assert "no part" not in found.text and "More tales" not in found.text and "<" not in found.text
    assert found.meta == {"source": "crow.html", "license": "https://creativecommons.org/licenses/by/4.0/"}


@pytest.mark.parametrize("html", ["<p>so it is</p>", "so it is", "<html><body>so it is"])
def test_a_web_page_may_be_small(tmp_path, html):
    (tmp_path / "a.htm").write_text(html)
    assert text_of(tmp_path).text == "so it is"


def test_markdown_is_read_as_it_stands(tmp_path):
    (tmp_path / "a.md").write_text("# The crow\n\n* drank\n")
    assert text_of(tmp_path).text == "# The crow\n\n* drank\n"


def test_the_pages_of_a_pdf_are_read_in_order(tmp_path):
    write_pdf(tmp_path / "a.pdf", "The crow dropped a pebble.", "Then it drank.")
    found = text_of(tmp_path, license="CC0")
    assert found.text == "The crow dropped a pebble.\n\nThen it drank."
    assert (found.id, found.meta) == ("a", {"source": "a.pdf", "license": "CC0"})


def test_paragraphs_and_tables_of_a_word_document_are_read_in_order(tmp_path):
    written = docx.Document()
    written.add_heading("The crow")
    table = written.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "pebbles", "seven"
    written.add_paragraph("It drank.")
    written.save(tmp_path / "a.docx")
    assert text_of(tmp_path).text == "The crow\n\npebbles\tseven\n\nIt drank."


PARTS = (
    '<w:p xmlns:w="{w}" xmlns:mc="{mc}"><w:pPr><w:tabs><w:tab w:pos="9"/></w:tabs></w:pPr><w:r><w:t>Seven</w:t></w:r>'
    '<w:ins w:id="1" w:author="a"><w:r><w:tab/><w:t>new </w:t></w:r></w:ins><w:del w:id="2" w:author="a"><w:r>'
    "<w:delText>old</w:delText></w:r></w:del><w:hyperlink><w:r><w:t>stones</w:t></w:r></w:hyperlink><w:r>"
    '<mc:AlternateContent><mc:Choice Requires="wps"><w:txbxContent><w:p><w:r><w:t>in a box</w:t></w:r></w:p>'
    "</w:txbxContent></mc:Choice><mc:Fallback><w:p><w:r><w:t>again</w:t></w:r></w:p></mc:Fallback>"
    "</mc:AlternateContent></w:r></w:p>"
)
FORM = '<w:sdt xmlns:w="{w}"><w:sdtPr/><w:sdtContent><w:p><w:r><w:t>filled in</w:t></w:r></w:p></w:sdtContent></w:sdt>'


def test_of_a_word_document_all_is_read_that_is_shown_once_and_as_it_was_accepted(tmp_path):
    names = {"w": "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
             "mc": "http://schemas.openxmlformats.org/markup-compatibility/2006"}  # fmt: skip
    written = docx.Document()
    table = written.add_table(rows=2, cols=3)
    table.cell(0, 0).merge(table.cell(0, 2)).text = "merged"
    table.cell(1, 0).text = "one"
    table.cell(1, 1).add_table(rows=1, cols=1).cell(0, 0).text = "nested"
    gone = table.add_row()
    gone.cells[0].text = "a row that was taken out"
    gone._tr.get_or_add_trPr().append(docx.oxml.OxmlElement("w:del"))
    for part in (PARTS, FORM):
        written.element.body.insert(-1, docx.oxml.parse_xml(part.format(**names)))
    written.save(tmp_path / "a.docx")
    assert text_of(tmp_path).text == "merged\none\tnested\t\n\nSeven\tnew stones\nin a box\n\n\nfilled in"


@pytest.mark.parametrize("suffix", [".pdf", ".docx"])
@pytest.mark.parametrize("content", [b"\x8f\x12\x00 random bytes \xff" * 20, b"%PDF-1.4\n", b"PK\x03\x04", b"text"])
def test_a_damaged_file_is_listed_with_the_reason_and_makes_no_documents(tmp_path, suffix, content):
    (tmp_path / f"a{suffix}").write_bytes(content)
    ((source, reason),) = left_out(tmp_path)
    assert source == f"a{suffix}" and reason.startswith("cannot be read (") and "\n" not in reason


def test_a_file_without_text_is_listed_and_so_is_a_locked_one(tmp_path):
    write_pdf(tmp_path / "scan.pdf", "")
    write_pdf(tmp_path / "open.pdf", "The crow dropped a pebble.")
    writer = pypdf.PdfWriter(tmp_path / "open.pdf")
    (tmp_path / "open.pdf").unlink()
    for name, user in (("locked.pdf", "secret"), ("owned.pdf", "")):
        writer.encrypt(user, "owner", algorithm="RC4-128")
        writer.write(tmp_path / name)
    (tmp_path / "page.html").write_text("<html><body><script>1</script></body></html>")
    docx.Document().save(tmp_path / "blank.docx")
    (tmp_path / "blank.txt").write_text(" \n")
    for name in ("empty.txt", "empty.csv"):
        (tmp_path / name).touch()
    found = dict(left_out(tmp_path))
    locked = found.pop("locked.pdf")
    assert locked == "cannot be read (it is locked by a password)"
    assert found == dict.fromkeys(
        ["blank.docx", "blank.txt", "empty.csv", "empty.txt", "page.html", "scan.pdf"], "gives no text"
    )
    assert [d.id for d in read(DocumentsConfig(str(tmp_path))).documents] == ["owned", "zz"]
