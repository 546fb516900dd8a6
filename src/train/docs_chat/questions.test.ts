import { expect, test } from "bun:test";
import { plainText, proposalOf } from "./proposals.ts";
import { names, plainQuestion, questionsOf } from "./questions.ts";

const pep = {
  id: "peps/peps/pep-0703.rst",
  title: "Making the ``GIL`` Optional",
  line: 1,
  text: "PEP: 703\nTitle: Making it Optional\nStatus: Accepted\n\nAbstract\n========\n\nCPython has a lock, see :pep:`684`, e.g. the *one*\nof `threads <https://x.org/a>`__ [1]_. It is in the way.\n\nMotivation\n==========\n",
};

test("a PEP's number, title, status and first sentence", () => {
  const found = proposalOf(pep)!;
  expect(found).toEqual({
    ...({ kind: "PEP", number: 703, title: "Making the `GIL` Optional", status: "Accepted" } as const),
    summary: "CPython has a lock, see PEP 684, e.g. the *one* of threads.",
  });
  expect(plainQuestion(found)).toBe("What is PEP 703?");
  const { always, inTurn } = questionsOf(found);
  expect(always).toEqual([
    {
      question: "What is PEP 703?",
      answer:
        'PEP 703 is "Making the `GIL` Optional". CPython has a lock, see PEP 684, e.g. the *one* of threads.',
    },
  ]);
  expect(new Set(inTurn.map(({ question }) => question)).size).toBe(inTurn.length);
});

test("RFCs by their feature's name or their file's, EIPs, chapters; other documents are nothing to ask about", () => {
  const rfc = (text: string) => proposalOf({ id: "rfcs/text/0002-rfc-process.md", line: 1, text });
  expect(rfc("- Feature Name: `let-else`\n")).toEqual({ kind: "RFC", number: 2, title: "let-else" });
  expect(rfc("- Feature Name: (fill me in)\n")).toEqual({ kind: "RFC", number: 2, title: "rfc process" });
  const eip = {
    id: "eips/EIPS/eip-20.md",
    title: "Token Standard",
    line: 1,
    text: "---\nstatus: Final\n---\n",
  };
  expect(proposalOf(eip)).toEqual({ kind: "EIP", number: 20, title: "Token Standard", status: "Final" });
  const chapter =
    "## Smart *Pointers*\n\nA pointer is a variable that contains an address in memory. More.\n";
  expect(proposalOf({ id: "rust-book/src/ch15-01-box.md", line: 1, text: chapter })).toMatchObject({
    ...({ kind: "chapter", summary: "A pointer is a variable that contains an address in memory." } as const),
  });
  expect(proposalOf({ id: "rust-book/src/SUMMARY.md", line: 1, text: chapter })).toBeUndefined();
  expect(proposalOf({ ...pep, title: "" })).toBeUndefined();
});

test("an answer is right where it names the title, whatever stands between its words", () => {
  const proposal = proposalOf(pep)!;
  expect(names('PEP 703 is "making the GIL, optional".', proposal)).toBe(true);
  expect(names("PEP 703 makes the GIL optional.", proposal)).toBe(false);
  // a longer word is another one
  expect(names("Making the GIL optionally", proposal)).toBe(false);
});

test("marks of reStructuredText and Markdown", () => {
  expect(plainText("See :func:`~os.walk`, ``a``, [this](http://x) and [that][1]\n now")).toBe(
    "See os.walk, `a`, this and that now",
  );
});
