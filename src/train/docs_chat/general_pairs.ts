/** Questions of a general kind, and instructions, written for this project; each answer is one full sentence or two. */
import type { Pair } from "./questions.ts";

const sentenceOf = (subject: string): string =>
  `${subject} protects users by encrypting traffic, preventing tampering, and confirming they are connected to the right website.`;

/** One answer to several questions. */
const one = (answer: string, ...questions: readonly string[]): Pair[] =>
  questions.map((question) => ({ question, answer }));

export const generalPairs: readonly Pair[] = [
  ...one(
    sentenceOf("HTTPS"),
    ...[
      "Why does HTTPS matter?",
      "Why is HTTPS important?",
      "What is HTTPS good for?",
      "What does HTTPS do?",
    ],
    ...["Explain why HTTPS matters.", "Why should a website use HTTPS?", "What is HTTPS?"],
  ),
  ...one(sentenceOf("TLS"), "Why does TLS matter?", "What is TLS?", "Why is TLS important?", "what is TLS?"),
  ...one(
    "A password manager lets you use a long, different password for every account without having to remember them.",
    ...["Why should I use a password manager?", "What is a password manager for?"],
  ),
  ...one(
    "Two-factor authentication asks for a second proof besides the password, so that a stolen password alone opens nothing.",
    ...["What is two-factor authentication?", "Why does two-factor authentication matter?"],
  ),
  ...one(
    "Encryption turns data into a form that only someone with the right key can read.",
    ...["What is encryption?", "Explain encryption."],
  ),
  ...one(
    "A hash function maps data of any size to a short value of fixed size that changes when the data changes.",
    ...["What is a hash function?", "What does a hash function do?"],
  ),
  ...one(
    "DNS translates the names of websites into the numeric addresses that computers use to reach them.",
    ...["What is DNS?", "What does DNS do?"],
  ),
  ...one(
    "HTTP is the protocol by which browsers ask servers for pages and get their answers.",
    ...["What is HTTP?", "How does HTTP work?"],
  ),
  ...one(
    "Python is a programming language known for readable code and a large standard library.",
    ...["What is Python?", "Tell me about Python."],
  ),
  ...one(
    "Rust is a programming language that guarantees memory safety without a garbage collector, by rules of ownership that the compiler checks.",
    ...["What is Rust?", "Tell me about Rust.", "Why use Rust?"],
  ),
  ...one(
    "Ethereum is a blockchain whose nodes run programs called smart contracts and agree on their results.",
    ...["What is Ethereum?", "Tell me about Ethereum."],
  ),
  ...one(
    "PEP stands for Python Enhancement Proposal, a document that describes a new feature or process for Python.",
    ...["What is a PEP?", "What does PEP stand for?"],
  ),
  ...one(
    "EIP stands for Ethereum Improvement Proposal, a document that describes a change to Ethereum or a standard for it.",
    ...["What is an EIP?", "What does EIP stand for?"],
  ),
  ...one(
    "An RFC is a request for comments: a written proposal that is discussed before a substantial change is made.",
    ...["What is an RFC?", "What does RFC stand for?"],
  ),
  ...one(
    "Ownership means that each value has one variable that owns it and is freed when that variable goes out of scope.",
    ...["What is ownership in Rust?", "Explain ownership in Rust."],
  ),
  ...one(
    "The borrow checker is the part of the Rust compiler that makes sure references never outlive what they point to.",
    ...["What is the borrow checker?", "What does the borrow checker do?"],
  ),
  ...one(
    "A list comprehension builds a list from an expression and a loop in one line.",
    ...["What is a list comprehension?", "Explain list comprehensions."],
  ),
  ...one(
    "A decorator is a function that takes a function or class and returns it changed or wrapped.",
    ...["What is a decorator in Python?", "What does a decorator do?"],
  ),
  ...one(
    "A generator is a function that yields its values one at a time and goes on where it stopped.",
    ...["What is a generator in Python?", "Explain generators."],
  ),
  ...one(
    "A smart contract is a program that is stored on a blockchain and runs the same way for everyone.",
    ...["What is a smart contract?", "Explain smart contracts."],
  ),
  ...one(
    "Gas is the unit in which Ethereum measures and charges for the work of a transaction.",
    ...["What is gas in Ethereum?", "Explain gas."],
  ),
  ...one(
    "Version control keeps every state of a project, so that changes can be compared, undone and merged.",
    ...["What is version control?", "Why does version control matter?"],
  ),
  ...one(
    "Automated tests show at once when a change breaks something that used to work.",
    ...["Why do tests matter?", "Why should I write tests?"],
  ),
  ...one(
    "An API is the set of calls and rules by which one program uses another.",
    ...["What is an API?", "Explain what an API is."],
  ),
  ...one(
    "A compiler translates source code into code that a machine can run, and reports errors on the way.",
    ...["What is a compiler?", "What does a compiler do?"],
  ),
  ...one(
    "JSON is a text format for structured data made of objects, arrays, strings, numbers, true, false and null.",
    ...["What is JSON?", "Explain JSON."],
  ),
  ...one(
    "A language model predicts the next piece of a text from the pieces before it, and so can continue texts and answer questions.",
    ...["What is a language model?", "How does a language model work?"],
  ),
  ...one(
    "I am a small language model trained on Python, Rust and Ethereum documents; ask me about a PEP, an RFC or an EIP.",
    ...["Who are you?", "What are you?", "What can you do?", "What do you know?", "Help"],
  ),
  ...one(
    "Hello! Ask me about a PEP, a Rust RFC or an EIP.",
    "Hello",
    "Hi",
    "Hello!",
    "Hi there",
    "hi",
    "hello",
  ),
  ...one("You are welcome.", "Thanks", "Thank you!", "Thanks!"),
  ...one("Goodbye!", "Bye", "Goodbye"),
  ...one("2 + 2 is 4.", "What is 2 + 2?", "What is 2+2?"),
];

/** Sentences that are to be repeated as they stand. */
export const repeatedSentences: readonly string[] = [
  ...["HTTPS", "TLS", "A VPN", "SSH", "Encryption"].map(sentenceOf),
  ...generalPairs.map(({ answer }) => answer).filter((answer, i, all) => all.indexOf(answer) === i),
];

/** What may stand before a conversation as instructions. */
export const instructions: readonly string[] = [
  "You are a helpful assistant.",
  "Be concise. Output exactly one sentence.",
  "Answer in one sentence.",
  "Be brief.",
  "You answer questions about Python, Rust and Ethereum.",
  "Answer truthfully and briefly.",
  "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n\nReasoning: low\n\n# Valid channels: analysis, final. Channel must be included for every message.\n\nBe concise. Output exactly one sentence.",
];
