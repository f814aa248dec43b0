/** As in package.json; `test/unit/version.test.ts` holds them together. */
export const version = '0.1.0'
