import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { nextAddress, rootAddress, type StoreFacts } from "../prefix_store/address.ts";
import { type BlockName, blockFile, statePart } from "../prefix_store/block.ts";
import { pageSize } from "./pages.ts";
import type { CachedPage } from "./prefix_tree.ts";

export type ShelfOptions = {
  readonly folder: string;
  /** All but the model's digest, which may be known later. */
  readonly facts: Omit<StoreFacts, "model">;
  readonly warn: (message: string) => void;
};

/** Where the blocks of one model lie, and which of them are not what their names say. */
export class Shelf {
  /** Undefined until the model's content is known: then nothing is read or written. */
  facts: StoreFacts | undefined;
  rejected = 0;
  /** What was wrong with files, for whoever tells of it. */
  readonly faults: string[] = [];
  readonly warn: ShelfOptions["warn"];
  private readonly options: ShelfOptions;
  private readonly broken = new Set<string>();

  constructor(options: ShelfOptions) {
    this.options = options;
    this.warn = options.warn;
  }

  open(model: string): void {
    this.facts = { ...this.options.facts, model };
  }

  /** Addresses of the first pages of a prompt, of which the tree knows some: theirs are made once. */
  *addresses(
    tenant: string,
    tokens: Int32Array,
    pages: number,
    known: readonly Pick<CachedPage, "address">[] = [],
  ): Generator<string, void, void> {
    if (!this.facts) return;
    let address = rootAddress(this.facts, tenant);
    for (let i = 0; i < pages; i++) {
      const node = known[i];
      address = node?.address || nextAddress(address, pageOf(tokens, i));
      if (node) node.address = address;
      yield address;
    }
  }

  has(address: string, part: number): boolean {
    const name = { address, part };
    return !this.broken.has(blockFile(name)) && existsSync(this.path(name));
  }

  path(name: BlockName): string {
    return join(this.options.folder, blockFile(name));
  }

  /** Removes the files of a prompt's pages. */
  forget(tenant: string, tokens: Int32Array, groups: number): void {
    for (const address of this.addresses(tenant, tokens, Math.floor(tokens.length / pageSize))) {
      for (const part of [...Array(groups).keys(), statePart]) this.remove({ address, part });
    }
  }

  private remove(name: BlockName): void {
    try {
      rmSync(this.path(name), { force: true });
    } catch (error) {
      // what cannot be removed is not read any more either
      this.refuse(name, error instanceof Error ? error.message : String(error));
    }
  }

  /** Whether a block is to be written over what is there under its name. */
  takeBroken(name: BlockName): boolean {
    return this.broken.delete(blockFile(name));
  }

  /** Notes once what is wrong with a file; gives whether something is. It is written again when its page is. */
  refuse(name: BlockName, fault: string | undefined): boolean {
    if (fault === undefined) return false;
    const file = blockFile(name);
    if (!this.broken.has(file)) {
      this.broken.add(file);
      this.rejected += 1;
      this.faults.push(`The prefix cache's file ${this.path(name)} is ignored: ${fault}`);
    }
    return true;
  }
}

/** Tokens of a page. */
export function pageOf(tokens: Int32Array, index: number): Int32Array {
  return tokens.subarray(index * pageSize, (index + 1) * pageSize);
}
